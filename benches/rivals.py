#!/usr/bin/env python3
"""Paraloom's T5 beside the other engines for it, on the machine at hand and in one run: rows a second, and whether the bars are met.

    benches/rivals.py --tokenizer DIR [--shape small] [--work greedy,sample,...] [--engine paraloom,transformers,...] [--repeat 5]

DIR has the `tokenizer.json` of a T5; `$PARALOOM_DATA/t5-tokenizer` is taken where none is named. The models have the shape of T5-small
or T5-base and random weights, since only the cost matters; `--work agreement` uses a model that knows its tasks. The rivals are installed
into environments of their own under `~/.cache/paraloom` (or `$PARALOOM_RIVALS`); one that cannot be installed is left out.

Each figure counts from the loading of the model to the results on disk, text to text; what a process needs to start and the conversion of
models are left out. Engines take turns within a repetition, so that a busy moment hits all alike, each in a process of its own.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import signal
import sys
import tempfile

from rivals import agreement, engines, environments, process, report, works
from rivals.paraloom import Paraloom, Quickstart

ROOT = pathlib.Path(__file__).resolve().parent.parent
PRECISIONS = ("f32", "bf16", "int8")


def arguments():
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("PARALOOM_DATA")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--tokenizer", type=pathlib.Path, default=data and pathlib.Path(data) / "t5-tokenizer")
    parser.add_argument("--shape", choices=["small", "base"], default="small")
    parser.add_argument("--work", default=",".join([*works.WORKS, "agreement"]), help="with commas (default: all of them)")
    parser.add_argument("--engine", help="families or modes with commas, such as paraloom,CTranslate2:int8 (default: all of them)")
    parser.add_argument("--backend", default="cpu", help="of Paraloom, with commas")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rows", type=int, default=330)
    parser.add_argument("--examples", type=int, default=320, help="that training works on")
    parser.add_argument("--steps", type=int, default=works.STEPS, help="of the article's first training")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--paraloom", type=pathlib.Path, default=target / "release" / "paraloom")
    parser.add_argument("--before", type=pathlib.Path, help="an earlier binary, which the quickstart is compared with")
    parser.add_argument("--json", type=pathlib.Path, help="also writes all figures to this file")
    args = parser.parse_args()
    if not args.tokenizer:
        parser.error("--tokenizer DIR is needed, or PARALOOM_DATA")
    if not (args.tokenizer / "tokenizer.json").exists():
        parser.error(f"there is no tokenizer.json in {args.tokenizer}")
    return args


def inputs(args, python):
    """The directory with the model and the rows, made once for each shape and tokenizer."""
    makers = [ROOT / "benches/rivals/workers/inputs.py", args.tokenizer / "tokenizer.json"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in makers)).hexdigest()[:12]
    folder = environments.cache() / f"rivals-{args.shape}-{digest}"
    if not (folder / "train.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        job = dict(tokenizer=args.tokenizer.resolve(), to=folder, shape=args.shape, rows=330, examples=1600,
                   corpus=ROOT / "pipelines/corpus/business.csv")
        engines.worker(python, "inputs.py", job, args.threads)
    return folder


def wanted(engine, names):
    """Whether an engine was asked for, by the first word of its family or as FAMILY:PRECISION."""
    family = engine.family.lower().split()[0]
    known = {family, f"{family}:{engine.precision}"}
    return names is None or bool(known & set(names.lower().split(",")))


def processor():
    """The name of the processor."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def measure(work, contenders, repeat):
    """Figures of all contenders, which take turns. A rival that fails is left out from then on: some settings of some crash on some processors."""
    figures = [report.Figures(engine, work) for engine in contenders if engine.does(work)]
    for repetition in range(repeat):
        for one in list(figures):
            try:
                taken = one.engine.measure(work)
            except process.Failed as failed:
                if not one.engine.rival:
                    raise
                figures.remove(one)
                print(f"{work.name} {one.engine.name} {one.engine.setting(work)} is left out: it {str(failed).splitlines()[-1]}", file=sys.stderr, flush=True)
                continue
            one.taken.append(taken)
            print(f"{work.name} {repetition + 1}/{repeat} {one.engine.name} {one.engine.setting(work)}: {taken.seconds:.2f} s, {taken.peak:.0f} MB, "
                  f"others {taken.others:.0%}", file=sys.stderr, flush=True)
    return figures


def everyone(args, pythons, folder, given, limits):
    """Paraloom in its precisions and the rivals in theirs, of those that were asked for."""
    contenders = [Paraloom(args.paraloom.resolve(), backend, precision, folder, given, args.threads, limits)
                  for backend in args.backend.split(",") for precision in PRECISIONS]
    contenders += engines.rivals(pythons, given, folder, args.threads, limits)
    return [engine for engine in contenders if wanted(engine, args.engine)]


def agree(args, pythons, folder):
    """Prints how far the precisions of each engine are from its f32; gives the same for JSON."""
    writer, judge = agreement.inputs(args.paraloom.resolve(), ROOT, environments.cache() / "rivals-quickstart")
    contenders = []
    for part, given, names in (("writer", writer, ["greedy"]), ("judge", judge, ["stsb", "cola"])):
        (folder / part).mkdir()
        contenders += [(engine, names) for engine in everyone(args, pythons, folder / part, given, agreement.LIMITS)]
    made = agreement.outputs(contenders)
    ids = agreement.tokens(pythons["transformers"], writer / "model/tokenizer.json", made, folder)
    lines, figures = agreement.table(made, ids)
    print(lines, flush=True)
    return figures


def main():
    # So that the engine at hand ends as well, and the folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = arguments()
    names = args.work.split(",")
    chosen = works.chosen([name for name in names if name != "agreement"])
    pythons = {name: environments.environment(name) for name in environments.REQUIREMENTS}
    if not pythons["transformers"]:
        raise SystemExit("the model is made by `transformers`, which is not there")
    given = inputs(args, pythons["transformers"])
    limits = dict(rows=args.rows, examples=args.examples, least=works.NEW_TOKENS, most=works.NEW_TOKENS, steps=args.steps)
    print(f"T5-{args.shape} shape, {args.rows} rows, {args.threads} threads, {processor()}, medians of {args.repeat}")
    for name, python in pythons.items():
        if python:
            print(f"{name}: {environments.versions(name, python)}")
    measured, counts = {}, {}
    with tempfile.TemporaryDirectory(dir=environments.cache(), prefix="rivals-run-") as folder:
        folder = pathlib.Path(folder)
        contenders = everyone(args, pythons, folder, given, limits)
        quickstart = ROOT / "pipelines/quickstart.yaml"
        contenders += [Quickstart(binary.resolve(), quickstart, folder, binary is args.before) for binary in (args.paraloom, args.before) if binary]
        for engine in contenders:
            if engine.rival and any(engine.does(work) for work in chosen):
                engine.prepare()
        for work in chosen:
            counts[work.name] = args.examples if work.unit == "examples/s" else args.rows
            measured[work] = measure(work, contenders, args.repeat)
            print(report.details(work, measured[work], counts[work.name]), flush=True)
        agreed = agree(args, pythons, folder) if "agreement" in names else []
    if measured:
        print(report.summary(measured, counts))
    if args.json:
        lines = [one.as_json(counts[work.name]) for work, figures in measured.items() for one in figures] + agreed
        args.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
