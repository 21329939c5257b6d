#!/usr/bin/env python3
"""What the engine itself costs: graphs of nodes that do next to nothing, beside the same graphs in ninja, Snakemake and DVC.

    cargo build --release
    python3 benches/engine.py [--paraloom target/release/paraloom] [--cases star:1000 chain:1000] [--rivals ninja snakemake dvc]

A case is SHAPE:NODES, and after that what is measured of it:

    chain:1000             each node reads the one before it (`threshold`, a copy in the others)
    star:1000              all nodes read one table (`derive`)
    apart:1000             the nodes have nothing to do with each other (`load`)
    star:1000:again        a second run, which has nothing to do
    star:10000:plan        what a run would do (`plan`; a dry run in the others), before anything was run
    star:3000:files=256    with no more than 256 open files

A table has 100 rows and is one part. Printed are seconds of CPU (user and system, of all processes), seconds of wall clock, the largest
resident set of a process, and the files that a node leaves in the store. Of several repetitions the one with the least CPU counts. The
rivals copy a file per node, so they do less: Paraloom types, digests, syncs and records what it writes. They are installed from PyPI into
an environment of their own ($PARALOOM_ENGINE_VENV, or ~/.cache/paraloom/venv-engine). A rival whose cost is known to grow too fast is measured
on fewer nodes (--most). Then come the bars, each with what was measured; a bar whose cases were not measured is left out. Exit code 1: one is not met.
"""

import argparse
import collections
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

CASES = """
chain:7 chain:7:again chain:1000 chain:2000 star:1000 star:1000:again star:4000 apart:1000 star:10000:plan chain:10000:plan star:3000:files=256
""".split()
# Snakemake takes some 40 ms a node, and DVC grows with their square.
MOST = {"ninja": 10000, "snakemake": 1000, "dvc": 50}
PACKAGES = ["ninja", "snakemake", "dvc"]

# One measurement; `failed` says why there is none.
Sample = collections.namedtuple("Sample", "cpu wall rss files failed", defaults=(0.0, 0.0, 0.0, 0.0, None))
# Two cases are compared, or one is held to a limit.
Bar = collections.namedtuple("Bar", "what case value limit unit of", defaults=(None,))
BARS = [
    Bar("chain of 2,000 to chain of 1,000", "chain:2000", "cpu", 2.2, "times", "chain:1000"),
    Bar("star of 4,000 to star of 1,000", "star:4000", "cpu", 4.4, "times", "star:1000"),
    Bar("star of 1,000, cold", "star:1000", "cpu", 2.0, "s"),
    Bar("star of 1,000, nothing to do", "star:1000:again", "cpu", 0.1, "s"),
    Bar("7 nodes, cold", "chain:7", "cpu", 0.03, "s"),
    Bar("files of a node", "star:1000", "files", 4.0, "files"),
    Bar("plan of a star of 10,000", "star:10000:plan", "wall", 1.0, "s"),
    Bar("plan of a chain of 10,000", "chain:10000:plan", "wall", 1.0, "s"),
    Bar("memory of 4,000 nodes", "star:4000", "rss", 100.0, "MB"),
    Bar("3,000 nodes with 256 files", "star:3000:files=256", "cpu", float("inf"), "s"),
]


class Case:
    """What is measured, taken apart: `star:3000:files=256`."""

    def __init__(self, text):
        self.text = text
        shape, nodes, *rest = text.split(":")
        if shape not in ("chain", "star", "apart"):
            raise ValueError(f"no such shape as {shape}")
        self.shape, self.nodes = shape, int(nodes)
        self.again, self.plan, self.files = "again" in rest, "plan" in rest, None
        for item in rest:
            if item.startswith("files="):
                self.files = int(item.removeprefix("files="))
            elif item not in ("again", "plan"):
                raise ValueError(f"no such measurement as {item}")

    def source(self, node):
        """The node that a node reads; none if it reads the file."""
        if node == 0 or self.shape == "apart":
            return None
        return node - 1 if self.shape == "chain" else 0

    def smaller(self, most):
        nodes = min(self.nodes, most)
        return Case(":".join([self.shape, str(nodes), *self.text.split(":")[2:]]))


def write_rows(folder, count=100):
    rows = "".join(f"a sentence about nothing {row},{row}\n" for row in range(count))
    (folder / "rows.csv").write_text("text,label\n" + rows)


class Paraloom:
    name = "paraloom"
    plans = True

    def __init__(self, binary):
        self.binary = binary

    def write(self, case, folder):
        # No two nodes have the same configuration, or they would be one result.
        lines = ["paraloom: 1", "nodes:"]
        for node in range(case.nodes):
            source = case.source(node)
            if source is None:
                lines.append(f"  n{node}: {{ stage: load, with: {{ from: rows.csv, limit: {1000 + node} }} }}")
            elif case.shape == "star":
                lines.append(f"  n{node}: {{ stage: derive, inputs: {{ rows: n{source} }}, with: {{ columns: {{ c{node}: label }} }} }}")
            else:
                lines.append(f"  n{node}: {{ stage: threshold, inputs: {{ rows: n{source} }}, with: {{ keep: \"label > -{node}\" }} }}")
        (folder / "p.yaml").write_text("\n".join(lines) + "\n")

    def command(self, case):
        return [self.binary, "plan" if case.plan else "run", "p.yaml"]

    def environment(self):
        return {}


class Ninja:
    name = "ninja"
    plans = True

    def __init__(self, bin):
        self.bin = bin

    def write(self, case, folder):
        lines = ["rule copy", "  command = cp $in $out"]
        for node in range(case.nodes):
            source = case.source(node)
            lines.append(f"build out/{node}: copy " + ("rows.csv" if source is None else f"out/{source}"))
        (folder / "build.ninja").write_text("\n".join(lines) + "\n")

    def command(self, case):
        return [self.bin / "ninja", "-j2", "--quiet"] + (["-n"] if case.plan else [])

    def environment(self):
        return {}


class Snakemake(Ninja):
    name = "snakemake"

    def write(self, case, folder):
        lines = ["rule all:", "    input: " + ", ".join(f'"out/{node}"' for node in range(case.nodes))]
        for node in range(case.nodes):
            source = case.source(node)
            source = "rows.csv" if source is None else f"out/{source}"
            lines += [f"rule n{node}:", f'    input: "{source}"', f'    output: "out/{node}"', '    shell: "cp {input} {output}"']
        (folder / "Snakefile").write_text("\n".join(lines) + "\n")

    def command(self, case):
        return [self.bin / "snakemake", "--cores", "2", "--quiet", "all"] + (["--dry-run"] if case.plan else [])


class Dvc(Ninja):
    name = "dvc"
    # Its dry run wants the outputs of what did not run.
    plans = False

    def write(self, case, folder):
        lines = ["stages:"]
        for node in range(case.nodes):
            source = case.source(node)
            source = "rows.csv" if source is None else f"out{source}"
            lines += [f"  n{node}:", f"    cmd: cp {source} out{node}", f"    deps: [{source}]", f"    outs: [out{node}]"]
        (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
        subprocess.run([self.bin / "dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True, env={**os.environ, **self.environment()})

    def command(self, case):
        return [self.bin / "dvc", "repro", "--quiet"] + (["--dry"] if case.plan else [])

    def environment(self):
        return {"DVC_NO_ANALYTICS": "1"}


def execute(command, folder, environment, files, limit):
    """Runs a command to its end; what it and all that it waited for have used."""

    def limit_files():
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=said, preexec_fn=limit_files, start_new_session=True)
        timer = threading.Timer(limit, lambda: os.killpg(process.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    failed = None
    if process.returncode == -signal.SIGKILL and wall >= limit:
        failed = f"not done after {limit} s"
    elif process.returncode != 0:
        failed = f"exit {process.returncode}: {lines[-1] if lines else ''}"
    return Sample(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, 0.0, failed)


def measure(engine, case, limit, root):
    """One run in a new folder of `root`; where the second one counts, the first goes before it. The folder stays: for minutes after many
    files were removed, ext4 takes several times as long to make new ones."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=root))
    write_rows(folder)
    engine.write(case, folder)
    before = count_files(folder)
    for _ in range(2 if case.again else 1):
        sample = execute(engine.command(case), folder, engine.environment(), case.files, limit)
        if sample.failed:
            break
    # The few files of a run as a whole are not those of a node.
    return sample._replace(files=(count_files(folder) - before) // case.nodes)


def count_files(folder):
    return sum(len(files) for _, _, files in os.walk(folder))


def best(engine, case, repeat, limit, root):
    samples = []
    for _ in range(repeat):
        samples.append(measure(engine, case, limit, root))
        if samples[-1].failed:
            return samples[-1]
    return min(samples, key=lambda sample: sample.cpu)


def install(wanted):
    """The programs from PyPI; none if it cannot be reached and they are not there already."""
    venv = pathlib.Path(os.environ.get("PARALOOM_ENGINE_VENV", pathlib.Path.home() / ".cache/paraloom/venv-engine"))
    if wanted and not (venv / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    missing = [name for name in PACKAGES if name in wanted and not (venv / "bin" / name).exists()]
    if missing:
        pip = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20", *missing]
        if subprocess.run(pip, stdout=sys.stderr).returncode != 0:
            print(f"skipped: {', '.join(missing)}, which could not be installed", file=sys.stderr)
    return venv / "bin"


def print_sample(case, name, sample):
    if sample.failed:
        print(f"{case.text:22} {name:10} {sample.failed}", flush=True)
        return
    each = sample.cpu / case.nodes * 1000
    print(f"{case.text:22} {name:10} {sample.cpu:8.3f} {each:9.3f} {sample.wall:8.3f} {sample.rss:8.1f} {sample.files:8.2f}", flush=True)


def judge(bars, samples):
    """Prints each bar whose cases were measured; whether all of them are met."""
    all_met = True
    for bar in bars:
        wanted = [case for case in (bar.case, bar.of) if case]
        if not all(case in samples for case in wanted):
            continue
        failed = next((samples[case].failed for case in wanted if samples[case].failed), None)
        limit = "passes" if bar.limit == float("inf") else f"at most {bar.limit:g} {bar.unit}"
        if failed:
            met, value = False, failed
        else:
            value = getattr(samples[bar.case], bar.value) / (getattr(samples[bar.of], bar.value) if bar.of else 1)
            met, value = value <= bar.limit, f"{value:.3g} {bar.unit}"
        all_met &= met
        print(f"{'met' if met else 'NOT MET':8} {bar.what:34} {limit:20} {value}")
    return all_met


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--paraloom", default=f"{target}/release/paraloom", help="the binary")
    parser.add_argument("--cases", nargs="+", type=Case, default=[Case(text) for text in CASES], metavar="CASE")
    parser.add_argument("--rivals", nargs="*", choices=PACKAGES, default=PACKAGES, help="none, if no name follows")
    parser.add_argument("--most", nargs="*", default=[], metavar="RIVAL=NODES", help="how many nodes a rival is measured on at most")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions of Paraloom's cases; a rival runs once")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a run is ended")
    arguments = parser.parse_args()
    binary = pathlib.Path(arguments.paraloom).resolve()
    if not shutil.which(binary):
        parser.error(f"there is no {binary}: build it, or name it with --paraloom")
    most = {**MOST, **{name: int(nodes) for name, nodes in (item.split("=") for item in arguments.most)}}
    bin = install(arguments.rivals)
    rivals = [rival(bin) for rival in (Ninja, Snakemake, Dvc) if rival.name in arguments.rivals and (bin / rival.name).exists()]

    with tempfile.TemporaryDirectory(prefix="engine-") as root:
        print(f"{'case':22} {'':10} {'CPU s':>8} {'ms a node':>9} {'wall s':>8} {'RSS MB':>8} {'files':>8}")
        samples, done = {}, set()
        for case in arguments.cases:
            samples[case.text] = best(Paraloom(binary), case, arguments.repeat, arguments.limit, root)
            print_sample(case, "paraloom", samples[case.text])
            for rival in rivals:
                smaller = case.smaller(most[rival.name])
                if (not case.plan or rival.plans) and (rival.name, smaller.text) not in done:
                    done.add((rival.name, smaller.text))
                    print_sample(smaller, rival.name, best(rival, smaller, 1, arguments.limit, root))
    print()
    return 0 if judge(BARS, samples) else 1


if __name__ == "__main__":
    sys.exit(main())
