#!/usr/bin/env python3
"""`paraloom serve` under load, beside the same rows in a run: rows a second, and how long a client waits.

    benches/serve.py PIPELINE NODE TABLE --made NODE... [--clients 32] [--seconds 20] [--paraloom target/release/paraloom]

PIPELINE has been run; NODE is what is served, and the rows of TABLE are sent, each as a request of its own, by clients that ask again as
soon as they have an answer. The run is timed from start to end, with a store of its own in which TABLE and the --made nodes are done.
"""

import argparse
import http.client
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def start(paraloom, pipeline, node, store):
    server = subprocess.Popen([paraloom, "serve", pipeline, node, "--bind", "127.0.0.1:0", *store], stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if " at http://" in line:
            return server, line.strip().rsplit("/", 1)[1], line.split(" at ")[0].split(" → ")
    sys.exit("the server did not start")


def load(address, rows, clients, seconds):
    """Rows a second, and the seconds that each request took."""
    took, failed, at, lock = [], [], iter(range(1 << 60)), threading.Lock()
    end = time.monotonic() + seconds

    def client():
        connection = http.client.HTTPConnection(address)
        while time.monotonic() < end:
            with lock:
                row = rows[next(at) % len(rows)]
            started = time.monotonic()
            connection.request("POST", "/v1/rows", json.dumps({"rows": [row]}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            (took if answer.status == 200 else failed).append(time.monotonic() - started)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(took) / (time.monotonic() - started), took, len(failed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("node")
    parser.add_argument("table")
    parser.add_argument("--made", nargs="+", default=[])
    parser.add_argument("--store", help="where PIPELINE has been run")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--paraloom", type=pathlib.Path, default=ROOT / "target/release/paraloom")
    args = parser.parse_args()
    store = ["--store", args.store] if args.store else []
    shown = subprocess.run([args.paraloom, "show", args.pipeline, args.table, "--json", *store], check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    server, address, nodes = start(args.paraloom, args.pipeline, args.node, store)
    try:
        with tempfile.TemporaryDirectory() as empty:
            run = [args.paraloom, "run", args.pipeline, "--store", empty, "--jobs", "1", "--until"]
            for node in [args.table, *args.made]:
                subprocess.run([*run, node], check=True, capture_output=True)
            started = time.monotonic()
            subprocess.run([*run, args.node], check=True, capture_output=True)
            seconds = time.monotonic() - started
        print(f"| {nodes[0]} .. {args.node} | rows/s | p50 s | p99 s |\n|---|---:|---:|---:|")
        print(f"| a run of {len(rows)} rows | {len(rows) / seconds:.1f} | | |")
        for clients in args.clients:
            rate, took, failed = load(address, rows, clients, args.seconds)
            took.sort()
            p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
            failures = f", {failed} failed" if failed else ""
            print(f"| {clients} clients{failures} | {rate:.1f} | {statistics.median(took):.2f} | {p99:.2f} |", flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
