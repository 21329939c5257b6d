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
        """What a process took, and the seconds from loading the model to results on disk, of which the first so many for loading."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        if out.is_file():
            out.unlink()
        reported, taken = worker(self.python, self.script, self.job(work), self.threads)
        return taken.counted(reported["seconds"], reported.get("load"))


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
        return dict(super().job(work), batch=batch, precision="autocast" if self.variant == "autocast" else self.precision)


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

    for precision, variant in (("f32", ""), ("bf16", ""), ("bf16", "autocast")):
        add(Transformers, "transformers", precision, variant, batch=64)
    for precision in ("f32", "int8"):
        for batch in (32, 64):
            add(CTranslate2, "transformers", precision, f"batches of {batch}", batch=batch)
        for way in ("logits", "score"):
            add(CTranslate2, "transformers", precision, way, batch=64, way=way)
    add(Diverse, "diverse", "f32", "transformers 4.56", batch=64)
    add(Diverse, "diverse", "bf16", "transformers 4.56", batch=64)
    # Weights in 8 bits are multiplied in the precision that is asked for.
    for weights, precision in (("f32", "f32"), ("bf16", "bf16"), ("int8", "f32"), ("int8", "bf16")):
        for streams in (1, threads):
            note = f", computed in {precision}" if weights == "int8" else ""
            add(OpenVino, "openvino", weights, f"{streams} streams{note}", batch=64, streams=streams, precision=precision)
    return made
