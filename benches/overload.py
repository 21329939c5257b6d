#!/usr/bin/env python3
"""A server under more load than it can carry: what of its capacity is left, and how soon the others are told no.

    benches/overload.py HOST:PORT [--times 10] [--seconds 10] [--row '{"source": "..."}'] [--pid PID]

First the capacity: --clients ask for a row each, again as soon as they have an answer. Then --times as many requests come at even
distances, whether or not there were answers, over a pool of connections. Prints a line of JSON: rows a second of both, their
ratio (goodput), the milliseconds that refusals and answers took, statuses, and with --pid the growth of the process's memory, also
for each connection that has asked once and waits.
"""

import argparse
import asyncio
import collections
import itertools
import json
import pathlib
import select
import socket
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


def overload(host, port, request, rate, seconds, connections):
    """Seconds that answers took, by status; requests for which there was no connection count as status -1.

    Without asyncio, which takes several times as much of the CPU that the server is to have."""
    poll, clients, free, took = select.epoll(), {}, [], collections.defaultdict(list)

    def connect():
        client = socket.create_connection((host, port))
        client.setblocking(False)
        poll.register(client, select.EPOLLIN)
        clients[client.fileno()] = client, 0.0, b""
        free.append(client.fileno())

    def read(number):
        client, sent, before = clients[number]
        more = client.recv(65536)
        data = before + more
        head, found, rest = data.partition(b"\r\n\r\n")
        if more and (not found or len(rest) < int(head.partition(b"content-length: ")[2].partition(b"\r")[0])):
            clients[number] = client, sent, data
            return
        if more:
            took[int(data[9:12])].append(time.monotonic() - sent)
        if more and b"connection: close" not in head:
            clients[number] = client, sent, b""
            free.append(number)
            return
        if number in free:
            free.remove(number)
        del clients[number]
        client.close()
        connect()

    for _ in range(connections):
        connect()
    started = time.monotonic()
    for number in range(int(rate * seconds)):
        while True:
            wait = started + number / rate - time.monotonic()
            for ready, _ in poll.poll(max(wait, 0)):
                read(ready)
            if wait <= 0:
                break
        if not free:
            took[-1].append(0)
            continue
        at = free.pop()
        clients[at] = clients[at][0], time.monotonic(), b""
        clients[at][0].send(next(request))
    lasted = time.monotonic() - started
    answered = len(took[200])
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for ready, _ in poll.poll(0.1):
            read(ready)
    for client, *_ in clients.values():
        client.close()
    return took, answered / lasted, lasted


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
    parser.add_argument("--seconds", type=float, default=10)
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
    carried = asyncio.run(capacity(host, port, request, args.clients, args.seconds))
    before = memory(args.pid) if args.pid else None
    took, rate, lasted = overload(host, int(port), request, carried * args.times, args.seconds, args.connections)
    offered = sum(len(times) for times in took.values()) / lasted
    print(json.dumps({
        "capacity": round(carried, 1),
        "offered": round(offered, 1),
        "answered": round(rate, 1),
        "goodput": round(rate / carried, 3),
        "refusals_ms": {"p50": percentile(took[429], 0.5), "p99": percentile(took[429], 0.99)},
        "answers_ms": {"p50": percentile(took[200], 0.5), "p99": percentile(took[200], 0.99)},
        "statuses": {str(status): len(times) for status, times in sorted(took.items()) if times},
        **({"memory_mib": [round(before, 1), round(memory(args.pid), 1)], "idle_kib": round(waiting, 1)} if args.pid else {}),
    }))


if __name__ == "__main__":
    main()
