#!/usr/bin/env python3
"""Near duplicates among 100,000 sentences: the stage `dedup`, and the libraries `datasketch` and `rensa` in the same run.

    pip install datasketch rensa
    python benches/dedup.py [--paraloom target/release/paraloom] [--rows 100000]

The sentences are random words; three of ten are another one with a word changed. Paraloom's time is that of the whole node: its rows are
read from Parquet and written to it, and every pair is compared exactly. That of the libraries is of their loops over a list in memory,
and they take the word of MinHash.
"""

import argparse
import pathlib
import random
import subprocess
import tempfile
import time

PIPELINE = """
paraloom: 1
name: dedup
nodes:
  rows: { stage: load, with: { from: rows.txt } }
  fresh: { stage: dedup, inputs: { rows: rows }, with: { by: [text], near: 0.8 } }
"""


def sentences(count):
    random.seed(1)
    words = ["".join(random.choices("abcdefghijklmnoprstuvw", k=random.randint(2, 9))) for _ in range(6000)]
    rows, originals = [], []
    for _ in range(count):
        if originals and random.random() < 0.3:
            row = list(random.choice(originals))
            row[random.randrange(len(row))] = random.choice(words)
        else:
            row = random.choices(words, k=20)
            originals.append(row)
        rows.append(" ".join(row))
    return rows


def timed(name, work):
    start = time.perf_counter()
    kept = work()
    print(f"{name:12} {time.perf_counter() - start:7.2f} s, {kept} kept", flush=True)


def shingles(text):
    return {text[at : at + 5] for at in range(max(1, len(text) - 4))}


def datasketch(rows):
    from datasketch import MinHash, MinHashLSH

    index, kept = MinHashLSH(threshold=0.8, num_perm=128), 0
    for at, row in enumerate(rows):
        signature = MinHash(128)
        signature.update_batch([shingle.encode() for shingle in shingles(row)])
        if not index.query(signature):
            index.insert(at, signature)
            kept += 1
    return kept


def rensa(rows):
    from rensa import RMinHash, RMinHashLSH

    index, kept = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16), 0
    for at, row in enumerate(rows):
        signature = RMinHash(num_perm=128, seed=42)
        signature.update(list(shingles(row)))
        if not index.query(signature):
            index.insert(at, signature)
            kept += 1
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paraloom", default="target/release/paraloom", type=pathlib.Path)
    parser.add_argument("--rows", default=100_000, type=int)
    args = parser.parse_args()
    rows = sentences(args.rows)
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        (root / "p.yaml").write_text(PIPELINE)
        (root / "rows.txt").write_text("\n".join(rows) + "\n")

        def paraloom(*command):
            done = subprocess.run([args.paraloom.resolve(), *command], cwd=root, check=True, capture_output=True)
            return done.stdout

        paraloom("run", "p.yaml", "--until", "rows")

        def dedup():
            paraloom("run", "p.yaml", "--until", "fresh")
            return paraloom("show", "p.yaml", "fresh", "--csv", "--columns", "text").count(b"\n") - 1

        timed("paraloom", dedup)
    timed("datasketch", lambda: datasketch(rows))
    timed("rensa", lambda: rensa(rows))


if __name__ == "__main__":
    main()
