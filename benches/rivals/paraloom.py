"""Paraloom as one of the engines: a pipeline with a node for each work, run by the binary."""

import csv
import json
import shutil

from . import process, serving
from .works import REQUESTS, TRAIN_BATCH

PREFIX = "paraphrase: "
SEARCHES = {
    "greedy": {},
    "sample": dict(sample=dict(top_k=120, top_p=0.95)),
    "beam": dict(beam=dict(beams=4)),
    "diverse": dict(beam=dict(beams=4, groups=4, diversity_penalty=1.0), candidates=4),
}
TRAINING = dict(prefix=PREFIX, learning_rate=1e-4, dropout=0.0, shuffle=False, schedule="constant")


class Paraloom:
    """Paraloom in one precision. Times are those of a node in the events of its run: from the reading of model and rows to the result on disk."""

    family = "paraloom"
    rival = False

    def __init__(self, binary, backend, precision, folder, inputs, threads, limits):
        self.binary, self.backend, self.precision, self.inputs, self.threads = binary, backend, precision, inputs, threads
        self.name, self.variant = f"paraloom {precision}", "" if backend == "cpu" else backend
        self.folder = folder / f"paraloom-{backend}-{precision}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limits = limits
        (self.folder / "p.yaml").write_text(json.dumps(dict(paraloom=1, name="rivals", seed=1, nodes=self.nodes())))
        (self.folder / "article.yaml").write_text(json.dumps(dict(paraloom=1, name="article", seed=1, nodes=self.article())))

    def does(self, work):
        """Whether there is such a mode."""
        if work.by == "before":
            return False
        return self.precision != "int8" or work.by in ("best", "latency")

    def setting(self, _work):
        """The backend, where it is another than usual."""
        return self.variant

    def nodes(self):
        """A node for each work, beside those that read its inputs."""
        given = dict(precision=self.precision)
        train = dict(TRAINING, precision="f32" if self.precision == "int8" else self.precision)
        model, rows = dict(model="model", rows="rows"), dict(limit=self.limits["rows"])
        learn = dict(model="model", examples="train")
        nodes = self.read(self.limits["examples"])
        for name, search in SEARCHES.items():
            nodes[name] = dict(stage="generate", inputs=model, **{"with": dict(self.lengths(), **search, **given)})
        nodes["pairs"] = dict(stage="load", **{"with": {"from": f"{self.inputs}/pairs.csv", **rows}})
        nodes["stsb"] = dict(stage="score-stsb", inputs=dict(model="model", rows="pairs"), **{"with": given})
        nodes["cola"] = dict(stage="score-cola", inputs=model, **{"with": dict(given, text="source")})
        for name, batch in (("finetune8", 8), ("finetune16", 16)):
            nodes[name] = dict(stage="finetune", inputs=learn, **{"with": dict(train, batch_size=batch)})
        nodes["lora"] = dict(stage="finetune", inputs=learn, **{"with": dict(train, batch_size=8, lora=dict(rank=8, alpha=8))})
        return nodes

    def lengths(self):
        """The prefix and how long texts are. The last token may be `</s>`, which is as much work as another."""
        least, most = self.limits["least"], self.limits["most"]
        return dict(prefix=PREFIX, min_new_tokens=min(least, most - 1), max_new_tokens=most)

    def read(self, examples):
        """The nodes that read a model, sentences and examples."""
        limits = dict(rows=self.limits["rows"], train=examples)
        tables = {name: dict(stage="load", **{"with": {"from": f"{self.inputs}/{name}.csv", "limit": limit}}) for name, limit in limits.items()}
        return dict(model=dict(stage="model", **{"with": {"from": f"{self.inputs}/model"}}), **tables)

    def article(self):
        """The article's steps: to learn, to write, to judge, to choose, and to learn from what was chosen, which is all there is."""
        given, train, steps = dict(precision=self.precision), dict(TRAINING, batch_size=TRAIN_BATCH), self.limits["steps"]
        # Training knows no int8.
        train["precision"] = "bf16" if self.precision == "int8" else self.precision
        drawn = dict(self.lengths(), sample=dict(top_k=120, top_p=0.98), **given)
        keep = "stsb_mean >= 0 and cola_p >= 0 and lower(paraphrase) != lower(source)"
        return dict(
            self.read(steps * TRAIN_BATCH),
            t5p=dict(stage="finetune", inputs=dict(model="model", examples="train"), **{"with": dict(train, steps=steps)}),
            paraphrases=dict(stage="generate", inputs=dict(model="t5p", rows="rows"), **{"with": drawn}),
            similarity=dict(stage="score-stsb", inputs=dict(model="model", rows="paraphrases"), **{"with": given}),
            grammar=dict(stage="score-cola", inputs=dict(model="model", rows="similarity"), **{"with": given}),
            qualified=dict(stage="threshold", inputs=dict(rows="grammar"), **{"with": dict(keep=keep)}),
            custom=dict(stage="finetune", inputs=dict(model="t5p", examples="qualified"), **{"with": dict(train, target="paraphrase", epochs=1)}),
        )

    def command(self, pipeline, *options):
        """Runs a pipeline in a store of this engine's own; only the end of a training writes a checkpoint."""
        return [self.binary, "run", pipeline, "--store", self.folder / "store", "--backend", self.backend, "--json", "--jobs", "1",
                "--threads", self.threads, "--checkpoint-every", "3600", *options]

    def measure(self, work):
        """What one work took, with nothing of it done before."""
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        if work.name == "serve":
            return self.serve()
        if work.name == "article":
            taken = process.run(self.command("article.yaml"), cwd=self.folder)
            return taken.counted(taken.wall)
        table = {"stsb": "pairs"}.get(work.name, "train" if work.by == "precision" else "rows")
        for name in ("model", table):
            process.run(self.command("p.yaml", "--until", name), cwd=self.folder)
        taken = process.run(self.command("p.yaml", "--until", work.name), cwd=self.folder)
        for line in taken.printed.splitlines():
            event = json.loads(line)
            if event["event"] == "node_finished" and event["node"] == work.name:
                return taken.counted(event["ms"] / 1000)
        raise SystemExit(f"{work.name} did not run\n{taken.printed}")

    def serve(self):
        """The median of requests of one row each, one after the other."""
        process.run(self.command("p.yaml", "--until", "model"), cwd=self.folder)
        command = [self.binary, "serve", "p.yaml", "greedy", "--store", self.folder / "store", "--backend", self.backend, "--bind", "127.0.0.1:0",
                   "--threads", self.threads, "--log", "off"]
        texts = serving.texts(self.inputs, REQUESTS)
        return serving.measure(command, self.folder, "/v1/rows", [dict(rows=[dict(source=text)]) for text in texts])

    def outputs(self, work):
        """What has just been made: texts, or labels with their values."""
        to = self.folder / "made.csv"
        process.run([self.binary, "export", "p.yaml", work.name, "--store", self.folder / "store", "--to", to, "--force"], cwd=self.folder)
        with to.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        if work.name == "stsb":
            return [(f"{float(row['stsb']):.1f}", float(row["stsb_mean"])) for row in rows]
        return [(row["cola"], float(row["cola_p"])) if work.name == "cola" else row["paraphrase"] for row in rows]


class Quickstart:
    """The quickstart from nothing, by this binary or by an earlier one."""

    precision, variant = "f32", ""

    def __init__(self, binary, pipeline, folder, before):
        self.binary, self.pipeline, self.store, self.rival = binary, pipeline, folder / "quickstart", before
        self.family = "paraloom before" if before else "paraloom"
        self.name = f"{self.family} quickstart"

    def setting(self, _work):
        """There is one alone."""
        return self.variant

    def does(self, work):
        """Nothing else."""
        return work.by == "before"

    def prepare(self):
        """Nothing."""

    def measure(self, work):
        """What the process took."""
        shutil.rmtree(self.store, ignore_errors=True)
        taken = process.run([self.binary, "run", self.pipeline, "--store", self.store])
        return taken.counted(taken.wall)
