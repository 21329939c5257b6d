"""Records what `transformers` computes with small random T5 models, for stages/t5/tests/fidelity.rs.

    python make_fixtures.py ../../stages/t5/tests/fixtures

needs torch and transformers. Every fixture is a model directory with a `recorded.json` beside the weights. The files
are small on purpose: they are committed, and the ordinary test command compares with them.
"""

import copy
import json
import pathlib
import shutil
import sys

import torch
from transformers import T5Config, T5ForConditionalGeneration, get_scheduler
from transformers.optimization import Adafactor

VOCABULARY = 61
MODELS = {
    # T5 1.0: ReLU, tied and scaled.
    "t5": dict(feed_forward_proj="relu", d_model=24, d_kv=8, d_ff=48, num_layers=2, num_heads=3),
    # T5 1.1 and Flan: gated GELU, a head of its own, no scaling.
    "t5-1.1": dict(feed_forward_proj="gated-gelu", d_model=16, d_kv=8, d_ff=40, num_layers=2, num_heads=2,
                   tie_word_embeddings=False),
    # Sizes that fill no register, unequal stacks, other buckets; in two shards.
    "odd": dict(feed_forward_proj="gated-gelu", d_model=19, d_kv=5, d_ff=37, num_layers=3, num_decoder_layers=2,
                num_heads=3, relative_attention_num_buckets=12, relative_attention_max_distance=20),
}


def sentences(count, longest, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator)
    return [torch.randint(3, VOCABULARY, (int(n),), generator=generator).tolist() + [1] for n in lengths]


def pad(rows, value):
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def batch(sources, targets):
    ids = pad(sources, 0)
    return dict(input_ids=ids, attention_mask=(ids != 0).long(), labels=pad(targets, -100))


def trained(model, sources, targets, **how):
    """Loss and gradient norm of every step of a training run."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    parameters = [p for p in model.parameters() if p.requires_grad]
    if how["optimizer"] == "adafactor":
        optimizer = Adafactor(parameters, lr=how["rate"], scale_parameter=False, relative_step=False, warmup_init=False)
    else:
        plain = [p for n, p in model.named_parameters() if "norm" in n or "bias" in n]
        decayed = [p for n, p in model.named_parameters() if not ("norm" in n or "bias" in n)]
        groups = [dict(params=decayed, weight_decay=how["decay"]), dict(params=plain, weight_decay=0.0)]
        optimizer = torch.optim.AdamW(groups, lr=how["rate"], eps=1e-8)
    scheduler = get_scheduler(how["schedule"], optimizer, num_warmup_steps=how["warmup"], num_training_steps=how["steps"])
    losses, norms, position = [], [], 0
    for _ in range(how["steps"]):
        micro = []
        for _ in range(how["accumulate"]):
            if position < len(sources):
                micro.append(slice(position, min(position + how["batch"], len(sources))))
                position = micro[-1].stop
        total = sum(len(t) for part in micro for t in targets[part])
        loss = 0.0
        for part in micro:
            out = model(**batch(sources[part], targets[part]))
            share = sum(len(t) for t in targets[part]) / total
            (out.loss * share).backward()
            loss += out.loss.item() * share
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, how["clip"]).item())
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss)
        position = 0 if position >= len(sources) else position
    final = {name: [p.float().sum().item(), p.float().pow(2).sum().item()] for name, p in model.named_parameters()}
    return dict(how, losses=losses, norms=norms, final=final)


def warm_up(model):
    """Teaches a random model to write something like the end of its source, so that it writes ends at all."""
    sources = sentences(64, 12, 4)
    data = batch(sources, [row[len(row) // 2 :] for row in sources])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(**data).loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def record(name, sizes, folder):
    torch.manual_seed(len(name))
    config = T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, dropout_rate=0.1, initializer_factor=1.0, **sizes)
    model = T5ForConditionalGeneration(config).eval()
    untied = sizes.get("tie_word_embeddings") is False
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
            if "relative" in key:
                parameter.mul_(8)
        if untied:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * 0.4)
    model.config.tie_word_embeddings = not untied
    warm_up(model)
    sources, targets = sentences(8, 40, 1), sentences(8, 12, 2)
    data = batch(sources, targets)
    result = model(**data)
    result.loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    gradients = {key: p.grad.norm().item() for key, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    recorded = dict(
        sources=sources,
        targets=targets,
        logits=[[round(x, 7) for x in row[: 2 * VOCABULARY : 3]] for row in result.logits.flatten(1).tolist()],
        loss=result.loss.item(),
        gradient_norm=norm,
        gradients=gradients,
    )
    inputs = sentences(200, 30, 3)
    recorded["inputs"] = inputs
    recorded["generated"] = [generated(model, inputs, **how) for how in SEARCHES]
    recorded["trained"] = [trained(model, sources, targets, **how) for how in TRAININGS]
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target, max_shard_size="24KB" if name == "odd" else "5GB")
    (target / "recorded.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n")


SEARCHES = [
    dict(num_beams=1),
    dict(num_beams=1, repetition_penalty=1.3, no_repeat_ngram_size=2),
    dict(num_beams=2),
    dict(num_beams=4, length_penalty=0.6, num_return_sequences=2),
    dict(num_beams=4, length_penalty=2.0, early_stopping=True),
    dict(num_beams=8, early_stopping="never", length_penalty=1.4),
    dict(num_beams=4, repetition_penalty=1.2, no_repeat_ngram_size=3),
]

TRAININGS = [
    dict(optimizer="adamw", schedule="linear", warmup=5, rate=3e-4, decay=0.01, clip=1.0, batch=3, accumulate=2, steps=30),
    dict(optimizer="adamw", schedule="constant", warmup=0, rate=2e-4, decay=0.0, clip=1e9, batch=4, accumulate=1, steps=30),
    dict(optimizer="adafactor", schedule="constant", warmup=0, rate=2e-4, decay=0.0, clip=1.0, batch=4, accumulate=1, steps=30),
]


def generated(model, inputs, **how):
    ids = pad(inputs, 0)
    result = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), max_new_tokens=10, do_sample=False,
                            return_dict_in_generate=True, output_scores=True, **how)
    rows = []
    for row in result.sequences.tolist():
        row = row[1:]
        rows.append(row[: row.index(1) + 1] if 1 in row else row)
    scores = getattr(result, "sequences_scores", None)
    return dict(how, rows=rows, scores=None if scores is None else [round(s, 6) for s in scores.tolist()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, sizes in MODELS.items():
        record(name, sizes, pathlib.Path(sys.argv[1]))
