"""The rivals: how each is set up, and what it is asked to do."""

import csv
import json
import os
import pathlib
import shutil

from . import process, serving
from .works import REQUESTS

WORKERS = pathlib.Path(__file__).resolve().parent / "workers"


def worker(python, script, job, threads):
    """Runs a worker; gives what it reports, and what its process took."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="true", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    taken = process.run([python, WORKERS / script, json.dumps(job, default=str)], env=env)
    return json.loads(taken.printed.strip().splitlines()[-1]), taken


class Rival:
    """An engine in one precision and one setting (`variant`), of which the fastest counts."""

    rival = True
    works = ()
    script = ""

    def __init__(self, python, precision, variant, settings, inputs, folder, threads, limits):
        self.python, self.precision, self.variant, self.settings = python, precision, variant, settings
        self.inputs, self.folder, self.threads, self.limits = inputs, folder, threads, limits
        self.name = f"{self.family} {precision}"

    def does(self, work):
        """Whether this engine, in this setting, has such a mode."""
        return work.name in self.works

    def setting(self, work):
        """What tells this one from others of its name at this work."""
        return self.variant

    def prepare(self):
        """What is done once, and not counted."""

    def job(self, work):
        """What the worker is told."""
        return dict(work=work.name, folder=self.inputs, threads=self.threads, out=self.folder / "out", **self.limits, **self.settings)

    def outputs(self, work):
        """What has just been made: texts, or labels with their values."""
        with (self.folder / "out").open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        return [row["text"] if "text" in row else (row["label"], float(row["value"])) for row in rows]

    def measure(self, work):
        """What a process took, and the seconds from loading the model to results on disk, of which the first so many for loading."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        if out.is_file():
            out.unlink()
        reported, taken = worker(self.python, self.script, self.job(work), self.threads)
        return taken.counted(reported["seconds"], reported.get("load"))


class Transformers(Rival):
    """transformers on torch, in bf16 with all that is stored, too."""

    family = "transformers"
    script = "transformers_infer.py"
    works = ("greedy", "sample", "beam", "stsb", "cola", "finetune8", "finetune16", "lora", "article")

    @property
    def compute(self):
        """What the worker calls the precision."""
        return self.precision

    def does(self, work):
        # Batches of 128 are faster on some machines where little is computed for each row; training has batches of its own.
        return super().does(work) and (self.settings["batch"] == 64 or work.name in ("greedy", "sample"))

    def setting(self, work):
        return "" if work.by == "precision" and self.compute != "autocast" else self.variant

    def measure(self, work):
        if work.name != "article":
            return super().measure(work)
        # All of the process counts, as it does of Paraloom.
        shutil.rmtree(self.folder / "article", ignore_errors=True)
        job = dict(self.job(work), out=self.folder / "article")
        job["out"].mkdir()
        _, taken = worker(self.python, "transformers_article.py", job, self.threads)
        return taken.counted(taken.wall)

    def job(self, work):
        batch = work.batch if work.by == "precision" else self.settings["batch"]
        return dict(super().job(work), batch=batch, precision=self.compute)


class Autocast(Transformers):
    """As the `Trainer` does with `bf16=True`: products in bf16, weights and the optimizer's state in f32."""

    compute = "autocast"
    works = ("finetune8", "finetune16", "lora", "article")


class CTranslate2(Rival):
    """CTranslate2 with a replica of one thread for each core."""

    family = "CTranslate2"
    script = "ctranslate2_infer.py"
    works = ("greedy", "sample", "beam", "stsb", "cola")

    def does(self, work):
        scores = work.name in ("stsb", "cola")
        return super().does(work) and scores == bool(self.settings.get("way"))

    @property
    def compute(self):
        """What CTranslate2 calls its precision."""
        return {"f32": "float32"}.get(self.precision, self.precision)

    def prepare(self):
        """Converts the model, once for all settings."""
        self.converted = self.inputs / f"ctranslate2-{self.precision}"
        if not (self.converted / "model.bin").exists():
            job = dict(model=self.inputs / "model", to=self.converted, precision=self.compute)
            worker(self.python, "ctranslate2_convert.py", job, self.threads)

    def job(self, work):
        return dict(super().job(work), model=self.converted, precision=self.compute, replicas=self.threads, threads=1)


class Served(CTranslate2):
    """CTranslate2 with one sentence at a time, on one core or on all: called within the process, or behind a plain HTTP server."""

    works = ("serve",)

    def __init__(self, python, precision, variant, *others):
        super().__init__(python, precision, variant, *others)
        self.family = f"CTranslate2 {self.settings['way']}"
        self.name = f"{self.family} {precision}"

    def does(self, work):
        return work.name in self.works

    def job(self, work):
        job = dict(super().job(work), work="greedy", replicas=1, threads=self.settings["cores"])
        return dict(job, texts=serving.texts(self.inputs, REQUESTS))

    def measure(self, work):
        job = self.job(work)
        if self.settings["way"] == "in process":
            reported, taken = worker(self.python, "ctranslate2_serve.py", job, self.threads)
            return taken.counted(reported["seconds"])
        command = [self.python, WORKERS / "ctranslate2_serve.py", json.dumps(job, default=str)]
        return serving.measure(command, self.folder, "/", [dict(text=text) for text in job["texts"]])


class Diverse(Transformers):
    """The last transformers that has diverse beam search; the other engines have none."""

    works = ("diverse",)


class OpenVino(Rival):
    """OpenVINO, its keys and values in f32. What is compiled is kept, so all but the first process load it ready-made."""

    family = "OpenVINO"
    script = "openvino_infer.py"
    works = ("greedy", "stsb", "cola")

    def prepare(self):
        """Exports the model, once for all settings."""
        weights = "int8" if self.precision == "int8" else "f32"
        self.exported = self.inputs / f"openvino-{weights}"
        if not (self.exported / "openvino_decoder_model.xml").exists():
            job = dict(model=self.inputs / "model", to=self.exported, precision=weights)
            worker(self.python, "openvino_convert.py", job, self.threads)

    def job(self, work):
        return dict(super().job(work), model=self.exported, cache=self.inputs / "openvino-compiled")


def rivals(pythons, inputs, folder, threads, limits):
    """All engines in all settings, of those whose environment there is."""
    made = []

    def add(kind, environment, mode, variant, **settings):
        if pythons.get(environment):
            made.append(kind(pythons[environment], mode, variant, settings, inputs, folder, threads, limits))

    for precision in ("f32", "bf16"):
        for batch in (64, 128):
            add(Transformers, "transformers", precision, f"batches of {batch}", batch=batch)
    add(Autocast, "transformers", "bf16", "autocast", batch=64)
    for precision in ("f32", "int8"):
        for batch in (32, 64):
            add(CTranslate2, "transformers", precision, f"batches of {batch}", batch=batch)
        for way in ("logits", "score"):
            add(CTranslate2, "transformers", precision, way, batch=64, way=way)
        for way in ("in process", "over HTTP"):
            for cores in sorted({1, threads}):
                add(Served, "transformers", precision, f"{cores} threads", batch=1, way=way, cores=cores)
    add(Diverse, "diverse", "f32", "transformers 4.56", batch=64)
    add(Diverse, "diverse", "bf16", "transformers 4.56", batch=64)
    # Weights in 8 bits are multiplied in the precision that is asked for.
    for weights, precision in (("f32", "f32"), ("bf16", "bf16"), ("int8", "f32"), ("int8", "bf16")):
        for streams in (1, threads):
            note = f", computed in {precision}" if weights == "int8" else ""
            add(OpenVino, "openvino", weights, f"{streams} streams{note}", batch=64, streams=streams, precision=precision)
    return made
