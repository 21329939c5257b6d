#!/usr/bin/env python3
"""A server over a long time: requests of all kinds, right and wrong, at an even rate, some of whose clients leave at once.

    benches/soak.py HOST:PORT PID [--minutes 60] [--rate 40] [--row '{"source": "..."}']

Prints a line each minute, or more often where there are few: requests so far, their statuses, memory in MiB, threads, open files. Exit code 1: an answer of 5xx, no answer at all, or memory
that grows by more than --slope MiB an hour after a third of the time.
"""

import argparse
import collections
import gzip
import json
import pathlib
import random
import socket
import sys
import threading
import time


def request(draw, row):
    """The bytes of a request, and whether its client waits for the answer."""
    def post(path, body, kind="application/json", more=""):
        body = body if isinstance(body, bytes) else body.encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def rows(count):
        return json.dumps({"rows": [{**row, "_id": f"{draw.random()}"} for _ in range(count)]})

    column = next(iter(row))
    kinds = [
        (40, lambda: post("/v1/rows", rows(1))),
        (10, lambda: post("/v1/rows", rows(draw.randint(2, 16)))),
        (5, lambda: post("/v1/rows", gzip.compress(rows(4).encode()), more="Content-Encoding: gzip\r\n")),
        (5, lambda: post("/v1/rows", f"{column}\n{row[column]}\n", "text/csv", "Accept: text/csv\r\n")),
        (10, lambda: post("/v1/completions", json.dumps({"prompt": row[column], "stream": draw.random() < 0.5}))),
        (5, lambda: post("/", json.dumps({"inputs": row[column]}))),
        (5, lambda: post("/v1/rows", '{"rows": [{"nothing": 1}]}')),
        (3, lambda: post("/v1/rows", "{" * 50_000)),
        (2, lambda: post("/v1/rows", b"\x00" * 600_000)),
        (5, lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        (5, lambda: b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        (3, lambda: b"GET /nowhere HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"),
        (2, lambda: b"\x16\x03\x01\x00\xc8" + draw.randbytes(200)),
    ]
    _, make = draw.choices(kinds, [weight for weight, _ in kinds])[0]
    return make(), draw.random() > 0.1


def ask(address, sent, waits):
    """The status of the answer; `left` where the client did not wait, `nothing` where none came."""
    try:
        with socket.create_connection(address, timeout=60) as connection:
            try:
                connection.sendall(sent)
            except OSError:
                pass  # It has said no already.
            if not waits:
                return "left"
            answer = b""
            while chunk := connection.recv(1 << 16):
                answer = answer or chunk
    except OSError:
        answer = locals().get("answer", b"")
    return answer[9:12].decode(errors="replace") if answer else "nothing"


def state(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    number = lambda name: int(status.split(f"{name}:")[1].split()[0])
    return number("VmRSS") / 1024, number("Threads"), len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("pid", type=int)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=40, help="requests a second")
    parser.add_argument("--row", type=json.loads, default={"source": "Sales fell in June at Ironwood."})
    parser.add_argument("--slope", type=float, default=1, help="MiB an hour")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    host, port = options.address.rsplit(":", 1)
    draw, statuses, lock = random.Random(options.seed), collections.Counter(), threading.Lock()
    slots, seen = threading.Semaphore(64), []

    def one(sent, waits):
        status = ask((host, int(port)), sent, waits)
        with lock:
            statuses[status] += 1
        slots.release()

    began = told = time.monotonic()
    end, number = began + 60 * options.minutes, 0
    # A slope of two points is none.
    every = min(60, 2 * options.minutes)
    while (now := time.monotonic()) < end:
        if now - told >= every or not seen:
            told = now
            memory, threads, files = state(options.pid)
            seen.append((now - began, memory))
            print(f"{(now - began) / 60:5.1f} min {number} requests {dict(sorted(statuses.items()))} {memory:.1f} MiB {threads} threads {files} files", flush=True)
        slots.acquire()
        threading.Thread(target=one, args=request(draw, options.row)).start()
        number += 1
        time.sleep(max(0.0, began + number / options.rate - time.monotonic()))
    late = [(at, memory) for at, memory in seen if at > 20 * options.minutes]
    mean = lambda values: sum(values) / len(values)
    at, memory = mean([at for at, _ in late]), mean([memory for _, memory in late])
    slope = sum((x - at) * (y - memory) for x, y in late) / max(1e-9, sum((x - at) ** 2 for x, _ in late)) * 3600
    bad = sum(count for status, count in statuses.items() if status.startswith("5") or status == "nothing")
    print(f"{number} requests, {bad} without an answer or with 5xx, memory {slope:+.2f} MiB an hour")
    return 1 if bad or slope > options.slope else 0


if __name__ == "__main__":
    sys.exit(main())
