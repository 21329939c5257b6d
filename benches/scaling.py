#!/usr/bin/env python3
"""What it costs to work on a pipeline with several workers: per part, and when one of them dies or freezes.

    cargo build --release
    python3 benches/scaling.py [--paraloom target/release/paraloom] [--ray] [--cases overhead killed frozen driver]

Workers are processes of this machine that share a directory; with --ray, a cluster of three nodes on loopback runs them, and Ray
Data is measured beside it (`ray[data,default]` comes from PyPI, by tests/python.sh). A part is a row. Those of `overhead` do nothing
(`derive`), in all other cases a part takes 450 ms in which nothing is computed (wait.c), so that nodes do not contend for processors:

    overhead   milliseconds of wall clock from the first of --parts parts to the last, for each; of workers also those of CPU, less what a
               run of one part takes
    killed     one of three is killed with all that it runs, at a fifth: the time of the rest over its ideal time, that of two
    frozen     one of three is stopped with SIGSTOP, at a quarter: seconds more than the ideal time of two
    driver     (with --ray) the job's driver is killed, at a third, and the same command is given again: whether it ends, and how many
               parts are computed twice

Exit code 1: a bar is not met, or the results differ from those of one run.
"""

import argparse
import contextlib
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TAKES = 0.45
PIPELINE = """
paraloom: 1
name: scaling
nodes:
  rows: {{ stage: load, with: {{ from: rows.csv }} }}
  done: {{ stage: {stage}, part_rows: 1, inputs: {{ rows: rows }}, with: {settings} }}
"""


class Bars:
    missed = 0

    def tell(self, what, value, unit, most=None):
        bar = "" if most is None else f" (bar: {most:g})"
        self.missed += most is not None and value > most
        print(f"{what}: {value:.2f} {unit}{bar}", flush=True)


class Project:
    """A directory with a pipeline of so many parts, whose rows are loaded."""

    def __init__(self, bench, name, parts, waits):
        self.bench, self.parts = bench, parts
        self.folder = bench.folder / name
        self.folder.mkdir()
        rows = "\n".join(str(number) for number in range(parts))
        (self.folder / "rows.csv").write_text(f"number\n{rows}\n")
        stage, settings = ("wait", f"{{ ms: {int(TAKES * 1000)} }}") if waits else ("derive", "{ columns: { twice: number * 2 } }")
        (self.folder / "p.yaml").write_text(PIPELINE.format(stage=stage, settings=settings))
        self.stages = ["--stages", str(bench.library)] if waits else []
        self("run", "p.yaml", "--until", "rows")
        self.there, self.before = self.logs(), self.done()

    def __call__(self, *arguments):
        command = [self.bench.paraloom, *arguments, *self.stages]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def start(self, *arguments):
        log = open(self.folder / "log", "a")
        return subprocess.Popen([self.bench.paraloom, *arguments, *self.stages], cwd=self.folder, stdout=log, stderr=log,
                                start_new_session=True)

    def worker(self, index, of):
        return self.start("worker", "p.yaml", "--shard", f"{index}/{of}", "--threads", "1")

    def job(self, workers):
        ray = self.bench.ray
        return self.start("run", "p.yaml", "--on", "ray", "--address", ray.address, "--python", str(ray.python),
                          "--store", str(self.folder / ".paraloom"), "--workers", str(workers))

    def logs(self):
        return set(self.folder.glob(".paraloom/results/*/*/parts.log"))

    def done(self):
        """Parts that are committed, of all tables."""
        return sum(log.read_bytes().count(b"\n") for log in self.logs())

    def until(self, parts):
        while self.done() - self.before < parts:
            time.sleep(0.01)
        return time.monotonic()

    def finished(self):
        """Seconds on the clock at which the last part is committed."""
        return self.until(self.parts)

    def check(self):
        """All parts are there, once each, in the order of the rows."""
        shown = [line.split(",")[0] for line in self("show", "p.yaml", "done", "--csv", "--columns", "number").splitlines()[1:]]
        if shown != [str(number) for number in range(self.parts)]:
            sys.exit(f"{self.folder.name}: these are not the rows of one run")


class Ray:
    """Three nodes, each with its processes below one that was started here."""

    def __init__(self, folder):
        self.python = pathlib.Path(subprocess.run([ROOT / "tests/python.sh", "ray", "ray[data,default]", "moto[server]"],
                                                  check=True, capture_output=True, text=True).stdout.strip())
        self.folder, self.nodes = folder, {}
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="of-this-bench-only", RAY_USAGE_STATS_ENABLED="0")
        self.gcs, dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{dashboard}"
        self.start(4, "--head", f"--port={self.gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}")
        wait_for(f"{self.address}/api/version")
        for number in (5, 6):
            self.start(number, f"--address=127.0.0.4:{self.gcs}")
        time.sleep(8)

    def start(self, number, *more):
        address = f"127.0.0.{number}"
        command = [self.python.parent / "ray", "start", "--block", f"--node-ip-address={address}", "--num-cpus=1",
                   f"--temp-dir={self.folder}/ray-{number}", "--disable-usage-stats", *more]
        log = open(self.folder / f"ray-{number}.log", "w")
        self.nodes[number] = subprocess.Popen(command, stdout=log, stderr=log)

    def processes(self, number):
        """Those of a node: they have its directory in their command line or were started by one that has."""
        return family(self.nodes[number].pid) | {pid for pid, _, line in processes() if f"{self.folder}/ray-{number}" in line}

    def signal(self, number, which):
        for pid in self.processes(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, which)

    def end(self):
        for number in self.nodes:
            self.signal(number, signal.SIGCONT)
            self.signal(number, signal.SIGKILL)


def processes():
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            yield int(folder.name), parent, line


def family(pid):
    found, all_of_them = {pid}, list(processes())
    for _ in range(8):
        found |= {child for child, parent, _ in all_of_them if parent in found}
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url):
    for _ in range(300):
        asked = ["curl", "--silent", "--fail", "-H", f"Authorization: Bearer {os.environ['RAY_AUTH_TOKEN']}", url]
        if subprocess.run(asked, capture_output=True).returncode == 0:
            return
        time.sleep(0.2)
    sys.exit(f"{url} does not answer")


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder, self.bars = options, folder, Bars()
        self.paraloom = options.paraloom.resolve()
        self.library = folder / "wait.so"
        include = ROOT / "engine/abi/include"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", f"-I{include}", "-o", self.library, ROOT / "benches/wait.c"], check=True)
        self.ray = Ray(folder) if options.ray else None
        self.how = "Ray" if options.ray else "workers"

    def run(self, name, parts, waits, workers):
        """Starts three workers, or a job with three; the project and its processes."""
        project = Project(self, name, parts, waits)
        began = time.monotonic()
        started = [project.job(workers)] if self.ray else [project.worker(index, workers) for index in range(workers)]
        return project, started, began

    def all_of(self, name, parts, workers):
        """Of a run of parts that do nothing: seconds on the clock, those from the first part to the last, and those of CPU."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        project, started, began = self.run(name, parts, False, workers)
        while not (project.logs() - project.there) and any(process.poll() is None for process in started):
            time.sleep(0.002)
        first = time.time()
        codes = [process.wait() for process in started]
        if any(codes):
            sys.exit(f"{name}: exit codes {codes}: {(project.folder / 'log').read_text()[-2000:]}")
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        span = max((log.stat().st_mtime for log in project.logs()), default=first) - first
        project.check()
        return wall, span, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def overhead(self):
        for workers in (1, 3):
            parts = self.options.parts
            start, _, start_cpu = min(self.all_of(f"one-{workers}-{time}", 1, workers) for time in range(2))
            _, span, cpu = self.all_of(f"many-{workers}", parts, workers)
            self.bars.tell(f"{self.how}, {workers}: wall clock of a part", span / parts * 1000, "ms", 2 if self.ray else 1)
            if not self.ray:
                self.bars.tell(f"{self.how}, {workers}: CPU of a part", (cpu - start_cpu) / parts * 1000, "ms")
            self.bars.tell(f"{self.how}, {workers}: a run of one part", start, "s")
        if self.ray:
            self.ray_data()

    def ray_data(self):
        """The same number of blocks of a row in Ray Data, whose tasks do nothing either."""
        program = """
import sys, time, ray
ray.init(address="auto", log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
def seconds(blocks):
    began = time.monotonic()
    rows = ray.data.range(blocks, override_num_blocks=blocks)
    assert rows.map_batches(lambda batch: {"twice": batch["id"] * 2}, batch_size=None).materialize().count() == blocks
    return time.monotonic() - began
seconds(2)  # what is started first
few = seconds(2)
parts = int(sys.argv[1])
print((seconds(parts) - few) / (parts - 2) * 1000)
"""
        parts = str(min(self.options.parts, 300))
        env = dict(os.environ, RAY_ADDRESS=f"127.0.0.4:{self.ray.gcs}")
        ran = subprocess.run([self.ray.python, "-c", program, parts], capture_output=True, text=True, env=env)
        if ran.returncode:
            sys.exit(ran.stderr[-2000:])
        self.bars.tell(f"Ray Data: wall clock of a block of a row, {parts} blocks", float(ran.stdout.split()[-1]), "ms")

    def lost(self, name, parts, share, which):
        """One of three gets a signal once a share of the parts is done; seconds from then on, and the ideal ones of two."""
        project, started, _ = self.run(name, parts, True, 3)
        hit = project.until(int(parts * share))
        left = parts - (project.done() - project.before)
        if self.ray:
            self.ray.signal(6, which)
        else:
            for pid in family(started[-1].pid):
                os.kill(pid, which)
        took, ideal = project.finished() - hit, left * TAKES / 2
        if self.ray:
            self.ray.signal(6, signal.SIGCONT)
        else:
            for pid in family(started[-1].pid):
                os.kill(pid, signal.SIGCONT)
        for process in started[:1] if self.ray else started[:2]:
            process.wait()
        if self.ray and which == signal.SIGKILL:
            self.ray.start(6, f"--address=127.0.0.4:{self.ray.gcs}")
            time.sleep(8)
        project.check()
        return took, ideal

    def killed(self):
        took, ideal = self.lost("killed", 60, 0.2, signal.SIGKILL)
        self.bars.tell(f"{self.how}: time of the rest over its ideal, one of three killed", took / ideal, "times", 1.2)

    def frozen(self):
        took, ideal = self.lost("frozen", 40, 0.25, signal.SIGSTOP)
        self.bars.tell(f"{self.how}: time beyond the ideal, one of three frozen", took - ideal, "s", 10)

    def driver(self):
        if not self.ray:
            return
        project, started, _ = self.run("driver", 30, True, 3)
        project.until(10)
        drivers = [pid for pid, _, line in processes() if "driver.py" in line and str(project.folder) in line]
        for pid in drivers:
            os.kill(pid, signal.SIGKILL)
        code, at = started[0].wait(), time.monotonic()
        again = project.job(3)
        if code == 0 or not drivers or again.wait() != 0:
            sys.exit(f"driver: {len(drivers)} drivers, exit code {code}: {(project.folder / 'log').read_text()[-2000:]}")
        self.bars.tell("Ray: from the end of a killed driver to the end of the run after it", time.monotonic() - at, "s")
        project.check()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paraloom", type=pathlib.Path, default=pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target"), "release/paraloom"))
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--parts", type=int, default=10000)
    parser.add_argument("--cases", nargs="*", default=["overhead", "killed", "frozen", "driver"])
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    bench = None
    try:
        bench = Bench(options, folder)
        for case in options.cases:
            getattr(bench, case)()
    finally:
        if bench and bench.ray:
            bench.ray.end()
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if bench.bars.missed else 0


if __name__ == "__main__":
    sys.exit(main())
