"""Runs a process and says what it took."""

import dataclasses
import os
import pathlib
import subprocess
import tempfile
import time


class Failed(SystemExit):
    """A command that did not end well: what it said, and how it ended."""


@dataclasses.dataclass(frozen=True)
class Taken:
    """`wall` seconds, `peak` MB of resident memory, `others`: the share of all cores that other processes used meanwhile, and what was printed.

    `seconds` are those that count, and `load` those of them that went by until the model was there, where that is known.
    """

    wall: float
    peak: float
    others: float
    printed: str
    seconds: float | None = None
    load: float | None = None

    def counted(self, seconds, load=None):
        """The same with the seconds that count."""
        return dataclasses.replace(self, seconds=seconds, load=load)


def busy():
    """Seconds of CPU, summed over all cores, since the machine started; hypervisors' theft is among them, waiting is not."""
    user, nice, system, _, _, irq, softirq, steal = map(int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def run(command, cwd=None, env=None):
    """Runs a command to its end; what it says to stderr is shown if it fails."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started, cpu = time.perf_counter(), busy()
        process = subprocess.Popen(list(map(str, command)), cwd=cwd, env=env, stdout=output, stderr=errors)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        others = busy() - cpu - usage.ru_utime - usage.ru_stime
        for file in (output, errors):
            file.seek(0)
        if process.returncode:
            raise Failed(f"{' '.join(map(str, command))}\n{errors.read().decode()[-4000:]}\nended with {process.returncode}")
        return Taken(wall, usage.ru_maxrss / 1024, max(others, 0) / wall / os.cpu_count(), output.read().decode())
