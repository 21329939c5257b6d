"""Low-rank adapters beside `peft`: the same start, the same steps, and adapters that go both ways. For `live.py`, and by itself:

    python tests/fidelity/adapters.py PATH_OF_PARALOOM
"""

import os
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, T5ForConditionalGeneration

import reference

PREFIX = "paraphrase: "
# Of each: our settings, and what `reference.train` is told.
TRAININGS = {
    "q and v, cosine": (
        dict(lora=dict(rank=4, alpha=8, targets=["q", "v"]), schedule="cosine"),
        dict(optimizer="adamw", schedule="cosine", warmup=3, rate=1e-2, decay=0.01, clip=1.0, batch=8, accumulate=1),
    ),
    "all layers, adafactor": (
        dict(lora=dict(rank=3, alpha=2, targets=["q", "k", "v", "o", "wi", "wo"]), schedule="inverse_sqrt"),
        dict(optimizer="adafactor", schedule="inverse_sqrt", warmup=4, rate=3e-3, decay=0.0, clip=1.0, batch=6, accumulate=2),
    ),
}
# As high as nobody would have it, so that a mask tells.
DROPOUT, MASKS = 0.5, 400


def base_of(folder):
    return T5ForConditionalGeneration.from_pretrained(folder / "base", attn_implementation="eager").eval()


def tuned(live, project, how, settings, **changed):
    """Our run; the node has the same name each time, and so the same seed."""
    shared = dict(prefix=PREFIX, batch_size=how["batch"], accumulate=how["accumulate"], optimizer=how["optimizer"],
                  weight_decay=how["decay"], clip=how["clip"], dropout=0.0, shuffle=False)
    rates = dict(steps=reference.STEPS, learning_rate=how["rate"], warmup_steps=how["warmup"])
    project.run({
        "base": live.node("model", **{"from": "base"}),
        "pairs": live.load("pairs.tsv"),
        "tuned": live.node("finetune", dict(model="base", examples="pairs"), **shared | rates | settings | changed),
    })
    to = project.folder / ("start" if changed else "end")
    shutil.rmtree(to, ignore_errors=True)
    return project.export("tuned", to)


def matrices(model):
    return {key: tensor.detach() for key, tensor in model.named_parameters() if "lora_" in key}


def matrices_of(model):
    return [tensor for tensor in model.parameters() if tensor.requires_grad]


def apart(ours, theirs):
    return max(((ours[key] - theirs[key]).norm() / theirs[key].norm()).item() for key in theirs if theirs[key].norm() > 0)


def learnt(live, table, project, name, tokenized):
    settings, how = TRAININGS[name]
    start = tuned(live, project, how, settings, steps=1, learning_rate=0.0, warmup_steps=0)
    model = PeftModel.from_pretrained(base_of(project.folder), start / "adapter", is_trainable=True)
    losses, norms, final = reference.train(model, *tokenized, **how)
    end = tuned(live, project, how, settings)
    metrics = project.rows("tuned.metrics")
    table.add("LoRA, loss of 30 steps", name, reference.relative([row["loss"] for row in metrics], losses), 1e-4)
    table.add("LoRA, gradient norm of 30 steps", name,
              reference.relative([row["gradient_norm"] for row in metrics], norms), 1e-3)
    read = PeftModel.from_pretrained(base_of(project.folder), end / "adapter")
    table.add("LoRA, matrices after 30 steps", name, apart(matrices(read), matrices(final)), 1e-4)
    merged = T5ForConditionalGeneration.from_pretrained(end, attn_implementation="eager").eval()
    table.add("LoRA, logits of the adapter in peft and of the merged model", name,
              live.logits_apart(merged, read, *tokenized), 1e-5)
    return final


def taken_over(live, table, project, name, model):
    """An adapter that peft has written, merged by `model` and by peft."""
    model.save_pretrained(project.folder / "theirs")
    project.run({"tuned": live.node("model", **{"from": "base", "adapter": "theirs"})})
    ours = load_file(project.export("tuned", project.folder / "taken") / "model.safetensors")
    theirs = model.merge_and_unload().state_dict()
    worst = max(((ours[key] - theirs[key]).norm() / theirs[key].norm()).item() for key in ours)
    table.add("LoRA, weights that peft's adapter is merged into", name, worst, 1e-6)
    shutil.rmtree(project.folder / "taken")


def dropped(live, table, project, tokenized):
    """Dropout before the adapters. Masks cannot be shared, but their effect can be compared: while the second matrices are zero the
    loss knows nothing of the masks, and the gradient is another one for each."""
    settings, how = TRAININGS["q and v, cosine"]
    settings = dict(settings, lora=dict(settings["lora"], dropout=DROPOUT))
    how = dict(how, batch=len(tokenized[0]))
    start = tuned(live, project, how, settings, steps=MASKS, learning_rate=0.0, warmup_steps=0)
    metrics = project.rows("tuned.metrics")
    # Of the adapters alone: that of the model is off in both.
    base = reference.without_dropout(base_of(project.folder))
    model = PeftModel.from_pretrained(base, start / "adapter", is_trainable=True).train()
    torch.manual_seed(MASKS)
    losses, norms = [], []
    for _ in range(MASKS):
        loss = model(**reference.batch(*tokenized)).loss
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in matrices_of(model)]).item())
        model.zero_grad()
    name = f"{MASKS} masks, rate {DROPOUT}"
    table.add("LoRA dropout, loss of an untouched adapter", name,
              reference.relative([row["loss"] for row in metrics], losses), 1e-5)
    ours, theirs = torch.tensor([row["gradient_norm"] for row in metrics]), torch.tensor(norms)
    deviation = ((ours.var() + theirs.var()) / MASKS).sqrt()
    table.add("LoRA dropout, mean gradient norm, in standard errors", name, ((ours.mean() - theirs.mean()).abs() / deviation).item(), 4)
    spread = (ours.std() / theirs.std()).log().abs() * MASKS**0.5
    table.add("LoRA dropout, spread of the gradient norm, in standard errors", name, spread.item(), 4)


def check(live, table, binary, folder, fresh, pairs, seed):
    project = live.Project(folder, binary)
    live.write_texts(folder, pairs, [])
    base = folder / "base"
    base.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(fresh / file, base / file)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenized = (live.ids_of(tokenizer, [PREFIX + source for source, _ in pairs]),
                 live.ids_of(tokenizer, [target for _, target in pairs]))
    model = reference.new_model(reference.MODELS["t5"], seed, 320)
    reference.warm_up(model, *tokenized).save_pretrained(base)
    for name in TRAININGS:
        taken_over(live, table, project, name, learnt(live, table, project, name, tokenized))
    dropped(live, table, project, tokenized)
    # With what our own configuration never has: a root, and alphas by layer.
    config = LoraConfig(r=4, lora_alpha=3, use_rslora=True, alpha_pattern={"EncDecAttention.q": 5}, init_lora_weights=False,
                        target_modules=["q", "wo"], task_type="SEQ_2_SEQ_LM")
    torch.manual_seed(seed)
    taken_over(live, table, project, "rslora, alpha_pattern", get_peft_model(base_of(folder), config))


def main():
    import live

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    table = live.Table()
    pairs, sentences = live.texts(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder, binary = pathlib.Path(os.environ.get("KEEP", temporary)), os.path.abspath(sys.argv[1])
        fresh = live.new_model(table, live.Project(folder / "new", binary), pairs, sentences)
        check(live, table, binary, folder / "adapters", fresh, pairs, 1)
    return table.missed > 0


if __name__ == "__main__":
    sys.exit(main())
