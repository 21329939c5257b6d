#!/usr/bin/env python3
"""A server under more load than it can carry: what of its capacity is left, and how soon the others are told no.

    benches/overload.py HOST:PORT [--times 10] [--turns 4] [--seconds 3] [--row '{"source": "..."}'] [--pid PID]

First the capacity: --clients ask for a row each, again as soon as they have an answer. Then --times as many requests come at even
distances, whether or not there were answers, over a pool of connections. By turns, since the rate of a machine that others use
too changes from one minute to the next; the ratio is that of the medians. Prints a line of JSON: rows a second of both, their
ratio (goodput), the milliseconds that refusals and answers took, statuses, and with --pid the process's memory before and after each turn, also
for each connection that has asked once and waits. Needs a C compiler, for the load itself (flood.c).
"""

import argparse
import asyncio
import collections
import itertools
import json
import pathlib
import statistics
import subprocess
import tempfile
import time


class Client(asyncio.Protocol):
    """A connection that has one request at a time."""

    def __init__(self):
        self.buffer, self.answer, self.transport = b"", None, None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.find(b"content-length: ") + 16
        if len(rest) < int(head[at:head.find(b"\r", at)]):
            return
        status, self.buffer = int(head[9:12]), b""
        self.done(status)
        if b"connection: close" in head:
            self.transport.close()

    def connection_lost(self, _):
        self.transport = None
        self.done(0)

    def done(self, status):
        if self.answer is not None:
            answer, self.answer = self.answer, None
            answer(status)

    def ask(self, request, answer):
        self.answer = answer
        self.transport.write(request)


async def connect(host, port):
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, host, port)
    return client


async def capacity(host, port, request, clients, seconds):
    """Answers a second, with some clients that ask again at once."""
    count, end = 0, time.monotonic() + seconds

    async def client():
        nonlocal count
        connection = await connect(host, port)
        while time.monotonic() < end:
            answered = asyncio.get_running_loop().create_future()
            connection.ask(next(request), answered.set_result)
            if await answered != 200:
                raise SystemExit("the server does not answer with 200")
            count += 1

    started = time.monotonic()
    await asyncio.gather(*(client() for _ in range(clients)))
    return count / (time.monotonic() - started)


def overload(host, port, cells, rate, seconds, connections):
    """Seconds that answers took, by status; requests for which there was no connection count as status -1.

    By flood.c: Python takes twice as much of the CPU that the server is to have."""
    with tempfile.TemporaryDirectory() as folder:
        flood = str(pathlib.Path(folder, "flood"))
        subprocess.run(["cc", "-O2", "-o", flood, pathlib.Path(__file__).parent / "flood.c"], check=True)
        command = [flood, host, port, rate, seconds, connections, cells]
        told = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.splitlines()
    took, (lasted, in_time) = collections.defaultdict(list), told[0].split()
    for number, line in enumerate(told[1:]):
        status, micros = map(int, line.split())
        took[status].append(micros / 1e6)
        if number + 1 == int(in_time):
            answered = len(took[200])
    return took, answered / float(lasted), float(lasted)


async def idle(host, port, connections, pid):
    """KiB that a connection costs which has had an answer and waits."""
    kept, before = [], memory(pid)
    for _ in range(connections):
        kept.append(await connect(host, port))
        # One after the other: what many need at a time stays with the process.
        answered = asyncio.get_running_loop().create_future()
        kept[-1].ask(b"GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n", answered.set_result)
        await answered
    await asyncio.sleep(1)
    grown = memory(pid) - before
    for client in kept:
        client.transport.close()
    return 1024 * grown / connections


def memory(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def percentile(values, share):
    values = sorted(values)
    return round(values[min(len(values) - 1, int(len(values) * share))] * 1e3, 1) if values else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3, help="of each half of a turn")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--connections", type=int, default=900)
    parser.add_argument("--row", default='{"source": "Sales fell in June at Ironwood."}')
    parser.add_argument("--pid", type=int)
    args = parser.parse_args()
    host, port = args.address.rsplit(":", 1)
    # Equal rows would be computed once, so each has an id of its own.
    head = b"POST /v1/rows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    bodies = (json.dumps({"rows": [{"_id": f"row-{number}", **json.loads(args.row)}]}).encode() for number in range(5000))
    request = itertools.cycle([head % (len(body), body) for body in bodies])
    waiting = asyncio.run(idle(host, port, args.connections, args.pid)) if args.pid else None
    cells, held = json.dumps(json.loads(args.row))[1:-1], [memory(args.pid)] if args.pid else []
    all_carried, all_answered, all_offered, took = [], [], [], collections.defaultdict(list)
    for _ in range(args.turns):
        all_carried.append(asyncio.run(capacity(host, port, request, args.clients, args.seconds)))
        rate = statistics.median(all_carried) * args.times
        of_turn, answered, lasted = overload(host, port, cells, rate, args.seconds, args.connections)
        all_answered.append(answered)
        all_offered.append(sum(len(times) for times in of_turn.values()) / lasted)
        for status, times in of_turn.items():
            took[status] += times
        held += [memory(args.pid)] if args.pid else []
    carried, rate, offered = (statistics.median(all_of) for all_of in (all_carried, all_answered, all_offered))
    print(json.dumps({
        "capacity": round(carried, 1),
        "offered": round(offered, 1),
        "answered": round(rate, 1),
        "goodput": round(rate / carried, 3),
        "turns": [[round(one) for one in turn] for turn in zip(all_carried, all_answered)],
        "refusals_ms": {"p50": percentile(took[429], 0.5), "p99": percentile(took[429], 0.99)},
        "answers_ms": {"p50": percentile(took[200], 0.5), "p99": percentile(took[200], 0.99)},
        "statuses": {str(status): len(times) for status, times in sorted(took.items()) if times},
        **({"memory_mib": [round(mib, 1) for mib in held], "idle_kib": round(waiting, 1)} if args.pid else {}),
    }))


if __name__ == "__main__":
    main()
