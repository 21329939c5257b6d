#!/usr/bin/env python3
"""Paraloom's T5 beside `transformers` on the same machine, in the same run: rows a second of writing and of training.

    benches/t5.py --tokenizer DIR [--size small] [--backend cpu cpu:bf16 torch torch:bf16] [--rows 330] [--repeat 3]

DIR has the `tokenizer.json` of a T5. The model has the shape of T5-small or T5-base and random weights: the cost is that of the
real one. Both read the model and the rows, do the work and write what came of it. Paraloom is timed by the events of its run,
from a node's start to its end; `transformers` by a clock around the same, its imports left out. Each repetition times
everything once, in turn, so that a busy moment hits all alike.
"""

import argparse
import csv
import itertools
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import tempfile
import time

import torch
import transformers
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = {
    "small": dict(d_model=512, d_ff=2048, num_layers=6, num_heads=8),
    "base": dict(d_model=768, d_ff=3072, num_layers=12, num_heads=12),
}
PREFIX = "paraphrase: "
NEW_TOKENS = 32
# Of `transformers`, which is slower with 32, 64 or 330; and as many as Paraloom computes side by side.
BATCH = 128
TRAIN_BATCH = 8
# The last is what its `Trainer(bf16=True)` does: products in bf16, weights and optimizer in f32, as with Paraloom's `precision: bf16`.
RIVALS = ["float32", "bfloat16", "autocast"]
WORDS = """the company said its board has approved a plan to raise prices in May after profits fell by three percent last year
while managers expect demand for new machines to recover before the summer because costs are lower and the bank
will lend more money to owners of small firms who want to hire staff""".split()


def sentences(count):
    draw = random.Random(1)
    # Lengths of business sentences: 20 words on average.
    return [" ".join(draw.choices(WORDS, k=draw.randint(8, 32))).capitalize() + "." for _ in range(count)]


class Paraloom:
    def __init__(self, folder, backend, precision):
        self.folder, self.backend = folder / f"{backend}-{precision}", backend
        self.folder.mkdir()
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
        self.binary = target / "release" / "paraloom"
        generate = dict(prefix=PREFIX, max_new_tokens=NEW_TOKENS, precision=precision)
        train = dict(prefix=PREFIX, batch_size=TRAIN_BATCH, learning_rate=1e-4, dropout=0.0, shuffle=False,
                     precision="f32" if precision == "int8" else precision)
        nodes = dict(
            model=dict(stage="model", **{"with": {"from": "../model"}}),
            rows=dict(stage="load", part_rows=1024, **{"with": {"from": "../rows.csv"}}),
            pairs=dict(stage="load", part_rows=1024, **{"with": {"from": "../pairs.csv"}}),
            generate=dict(stage="generate", inputs=dict(model="model", rows="rows"), **{"with": generate}),
            finetune=dict(stage="finetune", inputs=dict(model="model", examples="pairs"), **{"with": train}),
        )
        (self.folder / "p.yaml").write_text(json.dumps(dict(paraloom=1, name="bench", nodes=nodes)))

    def __call__(self, node):
        """Seconds that a node takes."""
        store = self.folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        base = [self.binary, "run", "p.yaml", "--store", store, "--backend", self.backend, "--json", "--jobs", "1",
                "--threads", str(torch.get_num_threads()), "--checkpoint-every", "3600"]
        for name in ("model", "rows", "pairs"):
            subprocess.run([*base, "--until", name], cwd=self.folder, check=True, capture_output=True)
        done = subprocess.run([*base, "--until", node], cwd=self.folder, check=True, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            event = json.loads(line)
            if event["event"] == "node_finished" and event["node"] == node:
                return event["ms"] / 1000
        raise SystemExit(f"{node} did not run\n{done.stderr}")


class Rival:
    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind
        self.precision = torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast")

    def __call__(self, node):
        """Seconds that the work of a node takes."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        dtype = torch.float32 if self.kind == "autocast" else getattr(torch, self.kind)
        model = T5ForConditionalGeneration.from_pretrained(self.folder / "model", dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "model")
        getattr(self, node)(model, tokenizer, out)
        return time.perf_counter() - start

    @staticmethod
    def pad(rows, value):
        width = max(map(len, rows))
        return torch.tensor([row + [value] * (width - len(row)) for row in rows])

    def generate(self, model, tokenizer, out):
        model.eval()
        rows = [row["source"] for row in read(self.folder / "rows.csv")]
        sources = tokenizer([PREFIX + row for row in rows]).input_ids
        order = sorted(range(len(rows)), key=lambda row: -len(sources[row]))
        written = {}
        with torch.inference_mode(), self.precision:
            for at in range(0, len(order), BATCH):
                batch = order[at : at + BATCH]
                ids = self.pad([sources[row] for row in batch], 0)
                done = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), do_sample=False, num_beams=1,
                                      min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS)
                written.update(zip(batch, tokenizer.batch_decode(done, skip_special_tokens=True), strict=True))
        out.mkdir()
        (out / "rows.txt").write_text("\n".join(written[row] for row in range(len(rows))))

    def finetune(self, model, tokenizer, out):
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        pairs = read(self.folder / "pairs.csv")
        sources = tokenizer([PREFIX + pair["source"] for pair in pairs]).input_ids
        targets = tokenizer([pair["target"] for pair in pairs]).input_ids
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for at in range(0, len(pairs), TRAIN_BATCH):
            ids = self.pad(sources[at : at + TRAIN_BATCH], 0)
            labels = self.pad(targets[at : at + TRAIN_BATCH], -100)
            with self.precision:
                done = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels)
            done.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def read(table):
    with table.open(newline="") as lines:
        return list(csv.DictReader(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--size", choices=SHAPES, default="small")
    parser.add_argument("--backend", nargs="+", default=["cpu", "cpu:bf16", "torch", "torch:bf16"], help="NAME, NAME:bf16, or to write NAME:int8")
    parser.add_argument("--work", nargs="+", default=["generate", "finetune"])
    parser.add_argument("--rows", type=int, default=330)
    parser.add_argument("--steps", type=int, default=40, help=f"of training, {TRAIN_BATCH} examples each")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rival", nargs="*", choices=RIVALS, default=RIVALS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        rows = sentences(arguments.rows)
        (folder / "rows.csv").write_text("source\n" + "\n".join(rows) + "\n")
        pairs = itertools.islice(itertools.cycle(rows), arguments.steps * TRAIN_BATCH)
        (folder / "pairs.csv").write_text("source,target\n" + "\n".join(f"{row},{row}" for row in pairs) + "\n")
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, **SHAPES[arguments.size]))
        model.save_pretrained(folder / "model")
        for file in arguments.tokenizer.iterdir():
            if file.is_file():
                shutil.copy(file, folder / "model")
        timed = {}
        for backend in arguments.backend:
            name, _, precision = backend.partition(":")
            timed[f"paraloom {name} {precision or 'f32'}"] = Paraloom(folder, name, precision or "f32")
        for kind in arguments.rival:
            timed[f"transformers {kind}"] = Rival(folder, kind)
        print(f"T5-{arguments.size} shape, {arguments.rows} rows, {arguments.threads} threads, "
              f"transformers {transformers.__version__}, torch {torch.__version__}")
        print("| work | engine | rows/s (median) | of each repetition |\n|---|---|---|---|", flush=True)
        for work in arguments.work:
            seconds = {name: [] for name in timed}
            for _ in range(arguments.repeat):
                for name, run in timed.items():
                    seconds[name].append(run(work))
            count = arguments.rows if work == "generate" else arguments.steps * TRAIN_BATCH
            for name, taken in seconds.items():
                rates = [count / second for second in taken]
                print(f"| {work} | {name} | {statistics.median(rates):.1f} | "
                      f"{', '.join(f'{rate:.1f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
