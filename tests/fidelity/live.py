"""Compares Paraloom with the installed `transformers`, on models that are made for it, and prints a table.

    python tests/fidelity/live.py [--seed N] [--keep DIR]

First our library: fresh recordings, read by the same test that reads the committed ones. Then the real binary: models
go in, are fine-tuned, write and judge; `transformers` reads what came out. Exit code 1 if a bar is missed.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import sentencepiece
import tokenizers
import torch
import transformers
from transformers import AutoTokenizer, T5ForConditionalGeneration

import adapters
import family
import reference

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = dict(feed_forward_proj="gated-gelu", d_model=64, d_kv=64, d_ff=176, num_layers=2, num_heads=3,
             tie_word_embeddings=False)
PREFIX = "paraphrase: "
NEW_TOKENS = 12
LONGEST = 512

TRAININGS = {
    "t5": dict(optimizer="adafactor", schedule="constant", warmup=0, rate=1e-3, decay=0.0, clip=1.0, batch=8,
               accumulate=2),
    "t5-1.1": dict(optimizer="adamw", schedule="linear", warmup=5, rate=3e-3, decay=0.01, clip=1.0, batch=5,
                   accumulate=3),
}
LIMITS = dict(min_new_tokens=6, encoder_no_repeat_ngram_size=3, no_repeat_ngram_size=2, bad_words=["the", "last year"])
SEARCHES = {
    "greedy": ({}, dict(num_beams=1)),
    "beam2": (dict(beam=dict(beams=2)), dict(num_beams=2)),
    "beam4": (dict(beam=dict(beams=4, length_penalty=0.6, early_stopping="yes"), candidates=3),
              dict(num_beams=4, length_penalty=0.6, early_stopping=True, num_return_sequences=3)),
    "limits": (LIMITS, dict(num_beams=1, **LIMITS)),
    "limits of beams": (dict(beam=dict(beams=3), **LIMITS), dict(num_beams=3, **LIMITS)),
    "beam8": (dict(beam=dict(beams=8, length_penalty=1.5, early_stopping="never")),
              dict(num_beams=8, length_penalty=1.5, early_stopping="never")),
}
STSB = [f"{step / 5:.1f}" for step in range(26)]
COLA = ["unacceptable", "acceptable"]


class Table:
    """What was checked, the bar, and what was measured."""

    def __init__(self):
        self.missed = 0
        self.row("check", "model", "bar", "measured")
        self.row(*["---"] * 4)

    def row(self, *cells):
        print("| " + " | ".join(cells) + " |", flush=True)

    def add(self, check, model, measured, bar=None):
        """Without a bar, the number is only told."""
        self.missed += bar is not None and not measured <= bar
        number = lambda value: f"{value:.1e}" if value else "0"
        self.row(check, model, "" if bar is None else number(bar), number(measured))

    def exact(self, check, model, differing, of):
        self.add(f"{check}, differing of {of}", model, differing, 0)


class Project:
    """A directory with a pipeline that the real binary runs."""

    backend = "cpu"

    def __init__(self, folder, binary):
        self.folder, self.binary = folder, binary
        folder.mkdir(parents=True)

    def __call__(self, *arguments):
        command = [self.binary, *arguments, "--backend", self.backend]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def run(self, nodes, part_rows=64):
        # YAML reads JSON.
        pipeline = dict(paraloom=1, name="live", seed=1, part_rows=part_rows, nodes=nodes)
        (self.folder / "p.yaml").write_text(json.dumps(pipeline, indent=1))
        self("run", "p.yaml")

    def rows(self, node):
        return [json.loads(line) for line in self("show", "p.yaml", node, "--json").splitlines()]

    def export(self, node, to):
        self("export", "p.yaml", node, "--to", str(to))
        return to


def texts(seed):
    """Pairs to learn from and sentences to write for, with characters that a tokenizer normalises."""
    draw = random.Random(seed)
    who = ["the company", "the ﬁrm", "a bank", "its owner", "the board", "Ａcme", "the café", "our team"]
    does = ["raised", "cut", "kept", "reported", "doubled", "expects", "missed", "lowered"]
    what = ["prices", "its forecast", "½ of the costs", "profits", "the dividend", "wages", "two deals", "its debt"]
    when = ["in May", "last year", "this week", "again", "for now", "on 3.4", "by 12 percent", "at 0.6"]
    sentence = lambda: " ".join(draw.choice(part) for part in (who, does, what, when))
    sentences = list(dict.fromkeys(sentence() for _ in range(400)))[:288]
    pairs = [(text, " ".join(reversed(text.split(" ", 2)))) for text in sentences[:48]]
    return pairs, sentences[48:]


def write_texts(folder, pairs, sentences):
    table = lambda name, rows: (folder / name).write_text("\n".join("\t".join(row) for row in rows) + "\n")
    table("pairs.tsv", [("source", "target"), *pairs])
    table("corpus.tsv", [("source",), *((text,) for text in sentences)])


def load(name, columns=None):
    return dict(stage="load", **{"with": {"from": name}})


def node(stage, inputs=None, **settings):
    return {"stage": stage, **({"inputs": inputs} if inputs else {}), "with": settings}


def ids_of(tokenizer, texts):
    return [tokenizer(text).input_ids for text in texts]


def new_model(table, project, pairs, sentences):
    """`model: new`: `transformers` reads it; its tokenizer serves the other models."""
    write_texts(project.folder, pairs, sentences)
    size = dict(vocabulary=200, d_model=32, d_ff=64, layers=2, heads=4)
    project.run({
        "pairs": load("pairs.tsv"),
        "corpus": load("corpus.tsv"),
        "fresh": node("model", dict(texts=["pairs", "corpus"]), new=size),
    })
    folder = project.export("fresh", project.folder / "fresh")
    check_tokenizer(table, "new", folder, [text for pair in pairs for text in pair] + sentences)
    return folder


def check_tokenizer(table, name, folder, texts):
    """AutoTokenizer against the file, as the library that wrote it reads it."""
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs = ids_of(AutoTokenizer.from_pretrained(folder), texts)
    differing = sum(ours.encode(text).ids != ids for text, ids in zip(texts, theirs, strict=True))
    table.exact("tokens of AutoTokenizer", name, differing, len(texts))


def base_model(name, sizes, tokenized, folder, seed):
    """A `transformers` model in whose training the reference agrees with itself."""
    while True:
        sources, targets = tokenized
        vocabulary = -(-(1 + max(max(row) for row in sources + targets)) // 64) * 64 + 64
        model = reference.warm_up(reference.new_model(sizes, seed, vocabulary), sources, targets)
        if reference.agrees(reference.trained(model, sources, targets, 1, **TRAININGS[name])):
            break
        seed += 1000
    model.save_pretrained(folder)
    return model


def settings_of(how):
    return dict(prefix=PREFIX, steps=reference.STEPS, batch_size=how["batch"], accumulate=how["accumulate"],
                optimizer=how["optimizer"], learning_rate=how["rate"], schedule=how["schedule"],
                warmup_steps=how["warmup"], weight_decay=how["decay"], clip=how["clip"] if how["clip"] < 1e9 else 0.0,
                dropout=0.0, shuffle=False)


def through_the_binary(table, name, sizes, fresh, project, pairs, sentences, seed):
    """Model in, fine-tuned, written and judged with; all of it against `transformers`."""
    write_texts(project.folder, pairs, sentences)
    base = project.folder / "base"
    base.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(fresh / file, base / file)
    tokenizer = AutoTokenizer.from_pretrained(base)
    sources = ids_of(tokenizer, [PREFIX + source for source, _ in pairs])
    targets = ids_of(tokenizer, [target for _, target in pairs])
    model = base_model(name, sizes, (sources, targets), base, seed)
    how = TRAININGS[name]
    tune = lambda **more: node("finetune", dict(model="base", examples="pairs"), **settings_of(how), **more)
    write = lambda model, **settings: node("generate", dict(model=model, rows="corpus"), prefix=PREFIX,
                                           max_new_tokens=NEW_TOKENS, **settings)
    project.run({
        "base": node("model", **{"from": "base"}),
        "pairs": load("pairs.tsv"),
        "corpus": load("corpus.tsv"),
        "tuned": tune(max_shard_size="48KB"),
        "half": tune(dtype="bf16"),
        **{search.replace(" ", "_"): write("tuned", **settings) for search, (settings, _) in SEARCHES.items()},
        "half-greedy": write("half"),
        "losses": node("score-loss", dict(model="tuned", rows="pairs"), prefix=PREFIX),
        "similar": node("score-stsb", dict(model="tuned", rows="pairs"), first="source", second="target"),
        "grammar": node("score-cola", dict(model="tuned", rows="pairs"), text="source"),
    })
    losses, norms, final = reference.train(model, sources, targets, **how)
    metrics = project.rows("tuned.metrics")
    table.add("loss of 30 steps", name, reference.relative([row["loss"] for row in metrics], losses), 1e-4)
    table.add("gradient norm of 30 steps", name,
              reference.relative([row["gradient_norm"] for row in metrics], norms), 1e-3)

    tuned = project.export("tuned", project.folder / "tuned")
    if not (tuned / "model.safetensors.index.json").exists():
        sys.exit("the fine-tuned model was not written in shards")
    check_tokenizer(table, name, tuned, sentences)
    ours = T5ForConditionalGeneration.from_pretrained(tuned, dtype=torch.float32).eval()
    table.add("weights after 30 steps", name, reference.weights_apart(ours, final), 1e-4)
    table.add("logits of the exported model and of transformers' own run", name, logits_apart(ours, final, sources, targets))
    check_writing(table, name, project, ours, tokenizer, sentences)
    check_judging(table, name, project, ours, tokenizer, pairs, sources, targets)
    check_halves(table, name, project, tuned, ours, sources, targets)
    return tuned


def logits_of(model, sources, targets):
    with torch.no_grad():
        data = reference.batch(sources, targets)
        return model(**data).logits[data["labels"] != -100].double()


def logits_apart(one, other, sources, targets):
    one, other = logits_of(one, sources, targets), logits_of(other, sources, targets)
    return ((one - other).abs().max() / other.abs().max()).item()


def check_writing(table, name, project, model, tokenizer, sentences):
    """The texts of every search, in batches as padded as they come."""
    ids = ids_of(tokenizer, [PREFIX + text for text in sentences])
    for search, (_, how) in SEARCHES.items():
        padded = reference.pad(ids, 0)
        how = dict(how)
        if words := how.pop("bad_words", None):
            how["bad_words_ids"] = tokenizer(words, add_special_tokens=False).input_ids
        with torch.no_grad():
            found = model.generate(input_ids=padded, attention_mask=(padded != 0).long(), do_sample=False,
                                   max_new_tokens=NEW_TOKENS, **how)
        decode = lambda row: tokenizer.backend_tokenizer.decode(row, skip_special_tokens=True)
        theirs = [decode(row) for row in reference.written(found)]
        ours = [row["paraphrase"] for row in project.rows(search.replace(" ", "_"))]
        differing = sum(one != other for one, other in zip(ours, theirs, strict=True))
        table.exact(f"texts of {search}", name, differing, len(theirs))


def check_judging(table, name, project, model, tokenizer, pairs, sources, targets):
    """Losses and label probabilities, each label teacher-forced over the whole vocabulary."""
    theirs = []
    for source, target in zip(sources, targets, strict=True):
        with torch.no_grad():
            theirs.append(model(**reference.batch([source], [target])).loss.item())
    ours = [row["loss"] for row in project.rows("losses")]
    table.add("score-loss", name, reference.relative(ours, theirs), 1e-5)
    prompts = [f"stsb sentence1: {source} sentence2: {target}" for source, target in pairs]
    probabilities = label_probabilities(model, tokenizer, prompts, STSB)
    values = torch.tensor([float(label) for label in STSB], dtype=torch.float64)
    rows = project.rows("similar")
    means = torch.tensor([row["stsb_mean"] for row in rows], dtype=torch.float64)
    table.add("score-stsb, expected value of 5", name, ((means - probabilities @ values).abs().max() / 5).item(), 1e-5)
    labels = [float(STSB[index]) for index in probabilities.argmax(1)]
    table.exact("score-stsb, label", name, sum(row["stsb"] != label for row, label in zip(rows, labels)), len(rows))
    probabilities = label_probabilities(model, tokenizer, [f"cola sentence: {source}" for source, _ in pairs], COLA)
    ours = torch.tensor([row["cola_p"] for row in project.rows("grammar")], dtype=torch.float64)
    table.add("score-cola, probability", name, (ours - probabilities[:, 1]).abs().max().item(), 1e-5)


def label_probabilities(model, tokenizer, prompts, labels):
    """Of every label its probability as the product over its tokens, without the end, among all labels."""
    rows = []
    targets = [ids[:-1] for ids in ids_of(tokenizer, labels)]
    for source in ids_of(tokenizer, prompts):
        logs = []
        for target in targets:
            with torch.no_grad():
                logits = model(**reference.batch([source[:LONGEST]], [target])).logits[0].double()
            logs.append(logits.log_softmax(-1)[range(len(target)), target].sum())
        rows.append(torch.stack(logs).softmax(0))
    return torch.stack(rows)


def check_halves(table, name, project, tuned, model, sources, targets):
    """bf16 weights: half the bytes, and how far the numbers drift."""
    half = project.export("half", project.folder / "half")
    read = T5ForConditionalGeneration.from_pretrained(half, dtype="auto")
    if read.dtype != torch.bfloat16:
        sys.exit(f"transformers reads the bf16 model as {read.dtype}")
    size = lambda folder: sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    table.add("bf16, bytes of f32", name, size(half) / size(tuned), 0.6)
    table.add("bf16, drift of logits", name, logits_apart(read.float(), model, sources, targets), 3e-2)
    ours, theirs = project.rows("greedy"), project.rows("half-greedy")
    changed = sum(one["paraphrase"] != other["paraphrase"] for one, other in zip(ours, theirs, strict=True))
    table.add("bf16, share of greedy texts that change", name, changed / len(ours))


def check_spiece(table, project, pairs, sentences, algorithm):
    """A directory that has only a SentencePiece model, made by the genuine library."""
    old = project.folder / "old"
    old.mkdir()
    texts = [text for pair in pairs for text in pair] + sentences
    (project.folder / "texts.txt").write_text("\n".join(texts))
    sentencepiece.SentencePieceTrainer.train(
        input=str(project.folder / "texts.txt"), model_prefix=str(old / "spiece"), vocab_size=190, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, model_type=algorithm, character_coverage=1.0, hard_vocab_limit=False, minloglevel=2,
    )
    # Room for 190 pieces and 100 extra tokens.
    model = reference.new_model(reference.MODELS["t5"], 5, 320)
    model.save_pretrained(old)
    project.run({"old": node("model", **{"from": "old"})})
    folder = project.export("old", project.folder / "exported")
    spiece = sentencepiece.SentencePieceProcessor(model_file=str(old / "spiece.model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    odd = [f"ﬁne ½  {text}　Ａe\u0301 ｶﾞ ™ …" for text in texts]
    for kind, texts in (("", texts), (" with odd characters", odd)):
        differing = sum(spiece.encode(text) + [1] != tokenizer(text).input_ids for text in texts)
        table.exact(f"tokens of spiece.model{kind}", algorithm, differing, len(texts))


def check_added(table, project, spiece, pairs):
    """A directory as it was written in 2020: spiece.model, and beside it the tokens that the model's author added."""
    old = project.folder / "old"
    old.mkdir()
    shutil.copy(spiece, old / "spiece.model")
    last = sentencepiece.SentencePieceProcessor(model_file=str(spiece)).get_piece_size() + 100
    write = lambda name, content: (old / name).write_text(json.dumps(content))
    write("added_tokens.json", {"<hl>": last, "<sep>": last + 1, "{": last + 2})
    write("special_tokens_map.json", {"additional_special_tokens": ["<hl>", "<sep>"]})
    write("tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 100})
    model = reference.new_model(reference.MODELS["t5"], 5, 320)
    model.save_pretrained(old)
    marked = [(f"ask: <hl> {source} <hl>{{ {target}", f"{target} <sep> {source}") for source, target in pairs]
    write_texts(project.folder, marked, [])
    project.run({
        "old": node("model", **{"from": "old"}),
        "pairs": load("pairs.tsv"),
        "losses": node("score-loss", dict(model="old", rows="pairs")),
    })
    theirs = AutoTokenizer.from_pretrained(old)
    sources, targets = (ids_of(theirs, texts) for texts in zip(*marked))
    table.exact("added tokens that are in no text", "spiece.model", sum(last not in ids for ids in sources), len(sources))
    losses = []
    for source, target in zip(sources, targets, strict=True):
        with torch.no_grad():
            losses.append(model(**reference.batch([source], [target])).loss.item())
    ours = [row["loss"] for row in project.rows("losses")]
    table.add("score-loss of texts with added tokens", "spiece.model", reference.relative(ours, losses), 1e-5)
    exported = AutoTokenizer.from_pretrained(project.export("old", project.folder / "exported"))
    differing = sum(exported(source).input_ids != ids for (source, _), ids in zip(marked, sources, strict=True))
    table.exact("added tokens of the exported model", "spiece.model", differing, len(sources))


def check_gaps(table, project, spiece, pairs):
    """Texts with the built-in special tokens, which `special_tokens: parse` reads as transformers does."""
    old = project.folder / "old"
    old.mkdir()
    shutil.copy(spiece, old / "spiece.model")
    (old / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100}))
    model = reference.new_model(reference.MODELS["t5"], 5, 320)
    model.save_pretrained(old)
    gapped = [(f"fill: {source} <extra_id_0> and {target}<extra_id_1>.", f"<extra_id_0> {target} <extra_id_1> {source}")
              for source, target in pairs]
    write_texts(project.folder, gapped, [])
    project.run({
        "old": node("model", **{"from": "old"}),
        "pairs": load("pairs.tsv"),
        "losses": node("score-loss", dict(model="old", rows="pairs"), special_tokens="parse"),
        "written": node("generate", dict(model="old", rows="pairs"), special_tokens="parse", max_new_tokens=12),
    })
    theirs = AutoTokenizer.from_pretrained(old)
    sources, targets = (ids_of(theirs, texts) for texts in zip(*gapped))
    losses, written = [], []
    for source, target in zip(sources, targets, strict=True):
        with torch.no_grad():
            losses.append(model(**reference.batch([source], [target])).loss.item())
            ids = model.generate(torch.tensor([source]), do_sample=False, num_beams=1, max_new_tokens=12)[0].tolist()
        written.append(theirs.decode([token for token in ids if token > 1], skip_special_tokens=False))
    ours = [row["loss"] for row in project.rows("losses")]
    table.add("score-loss of texts with gaps", "spiece.model", reference.relative(ours, losses), 1e-5)
    ours = [row["paraphrase"] for row in project.rows("written")]
    print(*list(zip(ours, written))[:3], sep="\n") if ours != written else None
    table.exact("texts with gaps that are written", "spiece.model",
                sum(our != their for our, their in zip(ours, written, strict=True)), len(ours))


def library(table, folder):
    """The comparison of stages/t5-core/tests/fidelity.rs, on fresh recordings; of each check, the worst becomes a row."""
    environment = dict(os.environ, PARALOOM_FIXTURES=str(folder))
    test = ["test", "--release"] if Project.backend == "cpu" else ["xtask", Project.backend, "test"]
    command = ["cargo", *test, "--test", "fidelity", "--", "--nocapture", "--test-threads", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    worst = {}
    for line in done.stdout.splitlines():
        # The first line of a test stands behind its name.
        cells = line[line.find("| "):].strip("| ").split(" | ")
        if len(cells) == 4:
            check, model, bar, measured = cells
            kind = check.split(" (")[0], bar
            worst[kind] = max(worst.get(kind, (-1.0, "")), (float(measured), model))
    for (check, bar), (measured, model) in worst.items():
        models = f"{len(list(folder.iterdir()))} models, worst {model}"
        table.add(check, models, measured, float(bar))
    if done.returncode:
        table.missed += 1
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")


def compare(seed, folder, binary):
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, seed {seed}", flush=True)
    recordings = folder / "recordings"
    pairs, sentences = texts(seed)
    table = Table()
    fresh = new_model(table, Project(folder / "new", binary), pairs, sentences)
    check_spiece(table, Project(folder / "spiece", binary), pairs, sentences, "unigram")
    check_spiece(table, Project(folder / "spiece-bpe", binary), pairs, sentences, "bpe")
    spiece = folder / "spiece" / "old" / "spiece.model"
    check_added(table, Project(folder / "added", binary), spiece, pairs)
    check_gaps(table, Project(folder / "gaps", binary), spiece, pairs)
    family.check(table, binary, folder / "family", pairs, seed)
    adapters.check(sys.modules[__name__], table, binary, folder / "adapters", fresh, pairs, seed)
    exported = {"new": fresh}
    for name in TRAININGS:
        project = Project(folder / name, binary)
        sizes = reference.MODELS[name]
        exported[f"{name}-tuned"] = through_the_binary(table, name, sizes, fresh, project, pairs, sentences, seed)
        exported[f"{name}-bf16"] = project.folder / "half"
    for name, source in exported.items():
        reference.record_exported(source, recordings / name, seed)
    for name, sizes in reference.MODELS.items():
        reference.record(name, sizes, recordings, seed)
    # So many that it does not learn them by heart: losses near zero compare badly.
    reference.record("small", SMALL, recordings, seed, examples=480)
    library(table, recordings)
    return table.missed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--backend", choices=["cpu", "torch"], default="cpu")
    parser.add_argument("--keep", type=pathlib.Path, help="a directory for everything that is made")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
    Project.backend = arguments.backend
    if Project.backend != "cpu":
        subprocess.run(["cargo", "xtask", Project.backend, "build", "--quiet"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        missed = compare(arguments.seed, folder, target.resolve() / "release" / "paraloom")
    print(f"{missed} bars missed" if missed else "every bar is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
