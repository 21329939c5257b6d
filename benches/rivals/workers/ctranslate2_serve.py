"""Writes for one text at a time with CTranslate2: within the process, or behind a plain HTTP server.

Job: that of `ctranslate2_infer.py`, with `texts` and `way` (`in process`, `over HTTP`).
"""

import http.server
import json
import statistics
import sys
import time

import common
from ctranslate2_infer import Engine

WARM = 5


def in_process(write, texts):
    """The median of the seconds that a text takes, after some that do not count."""
    took = []
    for text in [*texts[:WARM], *texts]:
        started = time.perf_counter()
        write(text)
        took.append(time.perf_counter() - started)
    common.report(seconds=statistics.median(took[WARM:]))


def over_http(write):
    """Answers until it is ended."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Otherwise the body of an answer waits for the client's acknowledgement of its head.
        disable_nagle_algorithm = True

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"text": write(asked["text"])}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()


def main():
    job = common.job()
    engine = Engine(job)

    def write(text):
        return engine.write([common.PREFIX + text], job["least"], job["most"])[0][0]

    if job["way"] == "in process":
        in_process(write, job["texts"])
    else:
        over_http(write)


main()
