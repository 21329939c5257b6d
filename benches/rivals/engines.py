"""The rivals: how each is set up, and what it is asked to do."""

import json
import os
import pathlib
import shutil

from . import process
from .works import NEW_TOKENS

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

    def prepare(self):
        """What is done once, and not counted."""

    def job(self, work):
        """What the worker is told."""
        return dict(work=work.name, folder=self.inputs, threads=self.threads, least=NEW_TOKENS, most=NEW_TOKENS,
                    out=self.folder / "out", **self.limits, **self.settings)

    def measure(self, work):
        """Seconds from loading the model to results on disk, and what the process took."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True) if out.is_file() else None
        reported, taken = worker(self.python, self.script, self.job(work), self.threads)
        return (taken.wall if work.name == "article" else reported["seconds"]), taken


class Transformers(Rival):
    """transformers on torch. Its bf16 is tried with all that is stored in bf16, and (training) with f32 weights under autocast."""

    family = "transformers"
    script = "transformers_infer.py"
    works = ("greedy", "sample", "beam", "stsb", "cola", "finetune8", "finetune16", "lora")

    def does(self, work):
        if self.variant == "autocast":
            return work.by == "precision"
        return super().does(work)

    def job(self, work):
        batch = work.batch if work.by == "precision" else self.settings["batch"]
        return dict(super().job(work), batch=batch, precision=self.variant or self.precision)


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


def rivals(pythons, inputs, folder, threads, limits):
    """All engines in all settings, of those whose environment there is."""
    made = []

    def add(kind, environment, precision, variant, **settings):
        if pythons.get(environment):
            made.append(kind(pythons[environment], precision, variant, settings, inputs, folder, threads, limits))

    for precision, variant in (("f32", ""), ("bf16", ""), ("bf16", "autocast")):
        add(Transformers, "transformers", precision, variant, batch=64)
    for precision in ("f32", "int8"):
        for batch in (32, 64):
            add(CTranslate2, "transformers", precision, f"batches of {batch}", batch=batch)
        for way in ("logits", "score"):
            add(CTranslate2, "transformers", precision, way, batch=64, way=way)
    return made
