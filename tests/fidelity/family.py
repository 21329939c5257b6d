"""The members of the family, each as a small random model in the layout that the hub has it in: what `transformers` makes of a
directory, and what the real binary does. For `live.py`, and by itself:

    python tests/fidelity/family.py PATH_OF_PARALOOM
"""

import argparse
import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import sentencepiece
import tokenizers
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, ByT5Tokenizer, MT5Config, T5Config, UMT5Config

SIZES = dict(d_model=32, d_kv=8, d_ff=64, num_layers=3, num_decoder_layers=2, num_heads=4,
             relative_attention_num_buckets=12, relative_attention_max_distance=20, decoder_start_token_id=0)
NEW_TOKENS = 12
# Attention in the plain implementation: others differ from it by up to 5e-5 in logits.
ATTENTION = "eager"


def spiece(folder, texts, **settings):
    """A SentencePiece model as T5's, with other settings."""
    (folder / "texts.txt").write_text("\n".join(texts))
    how = dict(vocab_size=180, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(
        **how | settings, input=str(folder / "texts.txt"), model_prefix=str(folder / "spiece"))
    for name in ("spiece.vocab", "texts.txt"):
        (folder / name).unlink()
    write(folder, "tokenizer_config.json", tokenizer_class="T5Tokenizer", extra_ids=100)


def write(folder, name, **fields):
    (folder / name).write_text(json.dumps(fields))


def byte_pairs(folder, texts):
    """vocab.json and merges.txt, with T5's tokens among the added ones, as CodeT5 has them."""
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(texts, vocab_size=400, special_tokens=special, show_progress=False)
    trained.save_model(str(folder))
    size = trained.get_vocab_size()
    extra = [f"<extra_id_{number}>" for number in reversed(range(100))]
    write(folder, "added_tokens.json", **{name: size + place for place, name in enumerate(extra)}, **{"<hl>": size + 100})
    write(folder, "special_tokens_map.json", additional_special_tokens=[*extra, "<hl>"])
    write(folder, "tokenizer_config.json", tokenizer_class="RobertaTokenizer")


def random_model(config, seed):
    """Weights that are all at work, and a head of its own."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config, attn_implementation=ATTENTION).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif "relative" in name:
                parameter.copy_(2 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return model


def pickled(model, folder, **how):
    """As `save_pretrained` of old wrote it, all aliases of the embedding included."""
    state = dict(model.state_dict())
    shared = state["shared.weight"]
    state |= {name: shared for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")}
    torch.save(state, folder / "pytorch_model.bin", **how)


def pickled_in_shards(model, folder):
    state = list(model.state_dict().items())
    places = {}
    for number, shard in enumerate((state[: len(state) // 2], state[len(state) // 2 :]), 1):
        name = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save(dict(shard), folder / name)
        places |= {key: name for key, _ in shard}
    write(folder, "pytorch_model.bin.index.json", metadata={}, weight_map=places)


def compressed(model, folder):
    """What is refused: entries that were packed again."""
    pickled(model, folder)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in entries.items():
            new.writestr(name, content)


def with_more(**more):
    """What is refused: a state dictionary with more than tensors."""
    def weights(model, folder):
        torch.save(dict(model.state_dict()) | more, folder / "pytorch_model.bin")
    return weights


def t5(proj="gated-gelu", kind=T5Config, **more):
    return lambda vocabulary: kind(vocab_size=vocabulary, feed_forward_proj=proj, **SIZES | more)


def byt5(folder, _texts):
    ByT5Tokenizer().save_pretrained(folder)


def plain(folder, texts):
    spiece(folder, texts)


def as_json(folder, texts):
    """A tokenizer.json, as umT5 has it: `transformers` reads no spiece.model for that."""
    spiece(folder, texts)
    write(folder, "config.json", model_type="t5")
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "spiece.model").unlink()


def with_added(folder, texts):
    spiece(folder, texts, user_defined_symbols=["<mark>", "{"])


def with_bytes(folder, texts):
    spiece(folder, texts, vocab_size=440, byte_fallback=True)


def with_spaces(folder, texts):
    spiece(folder, texts, remove_extra_whitespaces=False, add_dummy_prefix=False)


SAFE = lambda model, folder: model.save_pretrained(folder)
# Name, tokenizer, configuration, and how the weights are written.
MEMBERS = [
    ("T5, gelu", plain, t5("gelu"), SAFE),
    ("T5, silu", plain, t5("silu"), SAFE),
    ("UL2, gated-silu", plain, t5("gated-silu"), SAFE),
    ("mT5", with_bytes, t5(kind=MT5Config), SAFE),
    ("umT5", as_json, t5(kind=UMT5Config), SAFE),
    ("ByT5", byt5, t5(), SAFE),
    ("CodeT5", byte_pairs, t5("relu", eos_token_id=2, bos_token_id=1), SAFE),
    ("symbols in spiece.model", with_added, t5(), SAFE),
    ("spaces in spiece.model", with_spaces, t5(), SAFE),
    ("pytorch_model.bin", plain, t5("relu"), pickled),
    ("pytorch_model.bin of 2020", plain, t5("relu"),
     lambda model, folder: pickled(model, folder, _use_new_zipfile_serialization=False)),
    ("pytorch_model.bin, f16", plain, t5("relu"), lambda model, folder: pickled(copy.deepcopy(model).half(), folder)),
    ("pytorch_model.bin in shards", as_json, t5(kind=UMT5Config), pickled_in_shards),
]


REFUSED = [
    ("compressed", compressed),
    ("with a number", with_more(epoch=3)),
    ("with an object", with_more(args=argparse.Namespace(rate=1e-3))),
    ("a whole module", lambda model, folder: torch.save(model, folder / "pytorch_model.bin")),
]


def make(folder, tokenizer, config, weights, texts, seed):
    folder.mkdir(parents=True)
    tokenizer(folder, texts)
    config(64).save_pretrained(folder)
    size = len(AutoTokenizer.from_pretrained(folder))
    # Rows without a token, which checkpoints have; ByT5Tokenizer fails at them.
    config = config(size + (0 if tokenizer is byt5 else 8))
    model = random_model(config, seed)
    weights(model, folder)
    written = config.to_dict() | dict(architectures=[type(model).__name__], tie_word_embeddings=False,
                                      scale_decoder_outputs=False)
    write(folder, "config.json", **written)


def reference(folder, texts):
    """Losses and greedy texts of a directory, as `transformers` opens it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=ATTENTION).eval()
    losses, written = [], []
    for source, target in texts:
        ids = torch.tensor([tokenizer(source).input_ids])
        labels = torch.tensor([tokenizer(target).input_ids])
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=labels).loss.item())
            found = model.generate(input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1)
        written.append(tokenizer.decode(found[0], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return losses, written, model


def compare(folder, member, run, texts, seed):
    """Differences of one member: tokens through losses, texts, and the exported weights."""
    name, *how = member
    model = folder / "model"
    make(model, *how, [text for pair in texts for text in pair], seed)
    losses, written, theirs = reference(model, texts)
    ours = run(folder, texts)
    loss = max(abs(row["loss"] - other) / other for row, other in zip(ours["losses"], losses, strict=True))
    differing = sum(row["paraphrase"] != other for row, other in zip(ours["written"], written, strict=True))
    exported = load_file(ours["exported"] / "model.safetensors")
    state = theirs.state_dict()
    weights = sum(not torch.equal(tensor.float(), state[key].float()) for key, tensor in exported.items())
    again, _, _ = reference(ours["exported"], texts)
    return loss, differing, weights, max(abs(one - other) for one, other in zip(losses, again))


def runner(binary):
    def run(folder, texts):
        node = lambda stage, inputs=None, **settings: {
            "stage": stage, **({"inputs": inputs} if inputs else {}), "with": settings}
        rows = "\n".join("\t".join(row) for row in [("source", "target"), *texts]) + "\n"
        (folder / "pairs.tsv").write_text(rows)
        nodes = dict(
            model=node("model", **{"from": "model"}),
            pairs=node("load", **{"from": "pairs.tsv"}),
            losses=node("score-loss", dict(model="model", rows="pairs")),
            written=node("generate", dict(model="model", rows="pairs"), max_new_tokens=NEW_TOKENS),
        )
        (folder / "p.yaml").write_text(json.dumps(dict(paraloom=1, name="family", seed=1, nodes=nodes)))
        call = lambda *arguments: subprocess.run([binary, *arguments], cwd=folder, capture_output=True, text=True)
        done = call("run", "p.yaml")
        if done.returncode:
            raise SystemExit(f"{folder.name}: exit code {done.returncode}\n{done.stderr}")
        show = lambda name: [json.loads(line) for line in call("show", "p.yaml", name, "--json").stdout.splitlines()]
        call("export", "p.yaml", "model", "--to", "exported")
        return dict(losses=show("losses"), written=show("written"), exported=folder / "exported")
    return run


def advice(folder, binary, weights, texts):
    """Weights that are refused: the line of the message, to the letter, ends in a directory that loads, with equal weights."""
    make(folder / "model", plain, t5("relu"), weights, texts, 1)
    nodes = lambda model: {"model": {"stage": "model", "with": {"from": model}}}
    pipeline = lambda model: (folder / "p.yaml").write_text(json.dumps(dict(paraloom=1, name="advice", nodes=nodes(model))))
    call = lambda *arguments: subprocess.run([binary, *arguments], cwd=folder, capture_output=True, text=True)
    pipeline("model")
    line = next(line for line in call("run", "p.yaml").stderr.splitlines() if "python -c" in line)
    command = line[line.index("python -c"):].replace("python", sys.executable, 1)
    subprocess.run(["bash", "-c", command], cwd=folder, check=True, capture_output=True)
    pipeline("NEW")
    done = call("run", "p.yaml")
    call("export", "p.yaml", "model", "--to", "exported")
    expected = random_model(t5("relu")(len(AutoTokenizer.from_pretrained(folder / "model")) + 8), 1).state_dict()
    exported = load_file(folder / "exported" / "model.safetensors") if done.returncode == 0 else {}
    return int(not exported or any(not torch.equal(tensor, expected[key]) for key, tensor in exported.items()))


def check(table, binary, folder, pairs, seed):
    """Rows of all members."""
    odd = [("ﬁne ½ {x} <mark> déjà  vu", "Ａe\u0301 <hl> ™ …"), ("日本 {", "a")]
    texts = [*pairs[:24], *odd]
    for number, member in enumerate(MEMBERS):
        loss, differing, weights, again = compare(folder / str(number), member, runner(binary), texts, seed + number)
        table.add("score-loss", member[0], loss, 1e-5)
        table.exact("greedy texts", member[0], differing, len(texts))
        table.exact("exported weights", member[0], weights, "all")
        table.add("loss of the exported model in transformers", member[0], again, 1e-6)
    sources = [source for source, _ in texts]
    for name, weights in REFUSED:
        differing = advice(folder / f"advice {name}", binary, weights, sources)
        table.exact("advice for refused weights", name, differing, 1)


def main():
    import live

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    table = live.Table()
    pairs, _ = live.texts(1)
    with tempfile.TemporaryDirectory() as folder:
        check(table, os.path.abspath(sys.argv[1]), pathlib.Path(os.environ.get("KEEP", folder)), pairs, 1)
    return table.missed > 0


if __name__ == "__main__":
    sys.exit(main())
