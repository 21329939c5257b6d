#!/usr/bin/env python3
"""A million rows of CSV through `load`, `threshold` and `export`, and the same work by pandas, polars and DuckDB in the same run.

    pip install pandas polars duckdb
    python benches/tables.py [--paraloom target/release/paraloom] [--rows 1000000]

Each reads a CSV file of three columns, keeps the rows with `score >= 0.5 and words >= 8`, and writes them as CSV. Paraloom's tables are
kept in a store besides, with the reason of each row that went, and every part of them is safe on disk before the next one counts. What
is not installed is left out.
"""

import argparse
import importlib
import pathlib
import random
import shutil
import subprocess
import tempfile
import time

PIPELINE = """
paraloom: 1
name: tables
PART_ROWSnodes:
  rows: { stage: load, with: { from: rows.csv } }
  good: { stage: threshold, inputs: { rows: rows }, with: { keep: "score >= 0.5 and words >= 8" } }
  file: { stage: export, inputs: { rows: good }, with: { format: csv } }
"""


def write_rows(path, count):
    random.seed(1)
    words = ["".join(random.choices("abcdefghijklmnoprstuvw", k=random.randint(2, 9))) for _ in range(6000)]
    with open(path, "w") as file:
        file.write("text,score,words\n")
        for _ in range(count):
            text = random.choices(words, k=random.randint(4, 14))
            quoted = '"' + ", ".join(text) + '"' if random.random() < 0.2 else " ".join(text)
            file.write(f"{quoted},{random.random():.6f},{len(text)}\n")


def with_paraloom(binary, folder):
    subprocess.run([binary, "run", folder / "p.yaml", "--store", folder / "store"], check=True, capture_output=True)
    kept = next((folder / "store").rglob("rows.csv"))
    shutil.copy(kept, folder / "paraloom.csv")


def with_pandas(folder):
    pandas = importlib.import_module("pandas")
    rows = pandas.read_csv(folder / "rows.csv")
    rows[(rows.score >= 0.5) & (rows.words >= 8)].to_csv(folder / "pandas.csv", index=False)


def with_polars(folder):
    polars = importlib.import_module("polars")
    rows = polars.read_csv(folder / "rows.csv")
    rows.filter((polars.col("score") >= 0.5) & (polars.col("words") >= 8)).write_csv(folder / "polars.csv")


def with_duckdb(folder):
    duckdb = importlib.import_module("duckdb")
    query = f"select * from read_csv('{folder}/rows.csv') where score >= 0.5 and words >= 8"
    duckdb.sql(f"copy ({query}) to '{folder}/duckdb.csv' (header)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paraloom", default="target/release/paraloom")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--part-rows", type=int, help="what is kept and resumed as one, instead of 8,192 rows or 8 MiB")
    arguments = parser.parse_args()
    binary = pathlib.Path(arguments.paraloom).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_rows(folder / "rows.csv", arguments.rows)
        (folder / "p.yaml").write_text(PIPELINE.replace("PART_ROWS", f"part_rows: {arguments.part_rows}\n" if arguments.part_rows else ""))
        works = [("paraloom", lambda: with_paraloom(binary, folder))]
        works += [(name, lambda work=work: work(folder)) for name, work in
                  [("pandas", with_pandas), ("polars", with_polars), ("duckdb", with_duckdb)]]
        for name, work in works:
            try:
                if name != "paraloom":
                    importlib.import_module(name)
            except ImportError:
                print(f"{name:10} is not installed")
                continue
            start = time.perf_counter()
            work()
            took = time.perf_counter() - start
            with open(folder / f"{name}.csv") as file:
                kept = sum(1 for _ in file) - 1
            print(f"{name:10} {took:6.2f} s, {kept} kept", flush=True)


if __name__ == "__main__":
    main()
