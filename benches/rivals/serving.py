"""One sentence at a time through a server on this machine, as one client sees it that waits for each answer."""

import csv
import http.client
import json
import os
import re
import statistics
import subprocess
import threading
import time

from . import process

WARM = 5


def texts(inputs, count):
    """The first sentences of the rows."""
    with (inputs / "rows.csv").open(newline="") as lines:
        return [row["source"] for row, _ in zip(csv.DictReader(lines), range(count), strict=False)]


def measure(command, folder, path, bodies):
    """Starts a server, which says its address on stderr, sends it each body, and ends it; `seconds` are the median of the answers'."""
    started, cpu = time.perf_counter(), process.busy()
    server = subprocess.Popen(list(map(str, command)), cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"http://(127\.0\.0\.1:\d+)", line):
                break
        else:
            raise SystemExit(f"the server did not start\n{''.join(said)}")
        # What it says later would fill the pipe.
        threading.Thread(target=server.stderr.read, daemon=True).start()
        took = ask(found[1], path, bodies)
    finally:
        server.terminate()
        _, status, usage = os.wait4(server.pid, 0)
        server.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    others = process.busy() - cpu - usage.ru_utime - usage.ru_stime
    return process.Taken(wall, usage.ru_maxrss / 1024, max(others, 0) / wall / os.cpu_count(), "").counted(statistics.median(took))


def ask(address, path, bodies):
    """Seconds of each request, after some that do not count, over one connection."""
    connection, took = http.client.HTTPConnection(address), []
    for body in [*bodies[:WARM], *bodies]:
        started = time.perf_counter()
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        took.append(time.perf_counter() - started)
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}: {said.decode()}")
    connection.close()
    return took[WARM:]
