"""How far a precision is from f32 of the same engine, on a model that knows its tasks: the one that the quickstart trains.

Random weights say nothing of this: their choices are as close as their numbers. The writer writes greedily for the corpus and all
sentences that were held out, the judge judges those of its two tasks.
"""

import csv
import json
import pathlib
import shutil

from . import engines, process
from .works import WORKS

LIMITS = dict(rows=10_000, examples=1, least=0, most=48, steps=1)


def read(path, delimiter=","):
    """The rows of a table, as dictionaries."""
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines, delimiter=delimiter))


def write(path, columns, rows):
    """Writes a CSV file."""
    with path.open("w", newline="") as lines:
        file = csv.writer(lines)
        file.writerow(columns)
        file.writerows(rows)


def inputs(binary, root, folder):
    """Trains the quickstart's writer if need be; gives a directory for what it reads, and one for what the judge does."""
    pipeline, store = root / "pipelines/quickstart.yaml", folder / "store"
    folder.mkdir(parents=True, exist_ok=True)
    process.run([binary, "run", pipeline, "--store", store, "--until", "t5p"])
    writer, judge = folder / "writer", folder / "judge"
    for made in (writer, judge):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
    process.run([binary, "export", pipeline, "t5p", "--store", store, "--to", writer / "model"])
    shutil.copytree(root / "pipelines/quickstart-base", judge / "model")
    corpus = root / "pipelines/corpus"
    pairs, similar, sound = (read(corpus / f"{name}-heldout.tsv", "\t") for name in ("paraphrases", "similarity", "grammar"))
    columns = (read(corpus / "business.csv"), "text"), (pairs, "source"), (similar, "sentence1"), (similar, "sentence2"), (sound, "sentence")
    # Some thousands, so that the shares of two engines differ by more than chance would have them.
    sources = dict.fromkeys(row[column] for rows, column in columns for row in rows)
    write(writer / "rows.csv", ["source"], [[source] for source in sources])
    write(judge / "pairs.csv", ["source", "paraphrase"], [[row["sentence1"], row["sentence2"]] for row in similar])
    write(judge / "rows.csv", ["source"], [[row["sentence"]] for row in sound])
    for made in (writer, judge):
        write(made / "train.csv", ["source", "target"], [["a", "b"]])
        for table in ("rows.csv", "pairs.csv"):
            if not (made / table).exists():
                write(made / table, ["source", "paraphrase"], [["a", "b"]])
    return writer, judge


def equal_tokens(reference, other):
    """Shares of tokens, of the longer one of each two texts: in the part before they first differ, and place by place; and of texts."""
    prefix = place = total = texts = 0
    for one, two in zip(reference, other, strict=True):
        same = [a == b for a, b in zip(one, two, strict=False)]
        prefix += same.index(False) if False in same else len(same)
        place += sum(same)
        total += max(len(one), len(two))
        texts += one == two
    return prefix / total, place / total, texts / len(reference)


def distance(reference, other):
    """The share of labels that are the same, and the mean and the largest difference of the values."""
    differences = [abs(one[1] - two[1]) for one, two in zip(reference, other, strict=True)]
    labels = sum(one[0] == two[0] for one, two in zip(reference, other, strict=True))
    return labels / len(reference), sum(differences) / len(differences), max(differences)


def outputs(contenders):
    """What each engine makes of each work, by its name: of several settings the first."""
    made = {}
    for engine, works in contenders:
        for work in works:
            if engine.does(WORKS[work]) and work not in made.setdefault(engine.name, {}):
                if engine.rival:
                    engine.prepare()
                engine.measure(WORKS[work])
                made[engine.name][work] = engine.outputs(WORKS[work])
    return made


def tokens(python, tokenizer, made, folder):
    """The ids of all texts, by engine."""
    job = dict(tokenizer=tokenizer, texts=folder / "texts.json", to=folder / "ids.json")
    job["texts"].write_text(json.dumps({name: of["greedy"] for name, of in made.items() if "greedy" in of}))
    engines.worker(python, "tokens.py", job, 1)
    return json.loads(pathlib.Path(job["to"]).read_text())


def table(made, ids):
    """Lines of the table: each engine's other precisions beside its f32."""
    lines = ["\n### agreement with f32 of the same engine, models of the quickstart\n",
             "| engine | tokens equal before the first other one | tokens equal by place | texts equal | stsb: labels equal | mean, largest difference "
             "| cola: labels equal | mean, largest difference |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
    figures = []
    for name, of in made.items():
        family, precision = name.rsplit(" ", 1)
        reference = f"{family} f32"
        # Engines agree with one another in f32, or else they do not do the same.
        if precision == "f32":
            reference = "paraloom f32"
        if reference == name or reference not in made:
            continue
        row = dict(engine=name, reference=reference)
        cells = ["-"] * 7
        if "greedy" in of:
            row["prefix"], row["place"], row["texts"] = equal_tokens(ids[reference], ids[name])
            cells[:3] = [f"{row[key]:.4f}" for key in ("prefix", "place", "texts")]
        for at, work in ((3, "stsb"), (5, "cola")):
            if work in of:
                row[work] = distance(made[reference][work], of[work])
                cells[at : at + 2] = [f"{row[work][0]:.4f}", f"{row[work][1]:.1e}, {row[work][2]:.1e}"]
        figures.append(row)
        lines.append(f"| {name} beside {reference} | {' | '.join(cells)} |")
    of = {row["engine"]: row for row in figures}
    ours, theirs = of.get("paraloom int8", {}), of.get("CTranslate2 int8", {})
    if "prefix" in ours and "prefix" in theirs:
        says = "met" if ours["prefix"] >= theirs["prefix"] else "missed"
        lines.append(f"\nint8, tokens equal before the first other one: {ours['prefix']:.4f}, of CTranslate2 {theirs['prefix']:.4f} ({says})")
    return "\n".join(lines), figures
