#!/usr/bin/env python3
"""Data files that Python packages bring along, through `load`, `threshold`, `dedup`, `split` and `export`, against pandas, pyarrow,
polars and DuckDB. tests/files/run.sh installs them and runs this:

    venv/bin/python tests/files/real.py --paraloom target/release/paraloom [FOLDER...]

Every file is to load, or to be refused with a place and a way out; what is loaded is to be equal to what pandas reads, cell by cell; no
row may be lost between the stages; and what `export` writes in each format is to be the same again, in pandas and in `load`. FOLDERs
are looked through as well. Ends with a count, and with 1 where something differs.
"""

import argparse
import collections
import importlib.util
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import duckdb
import pandas
import polars
import pyarrow.parquet

PACKAGES = ["sklearn", "statsmodels", "vega_datasets", "plotly", "seaborn", "pyarrow", "pandas", "polars", "skimage", "nltk"]
KINDS = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"}
LARGEST = 20_000_000
FORMATS = ["csv", "tsv", "jsonl", "parquet"]
# What pandas takes for missing is text here: `NA` may be Namibia.
PLAIN = {"keep_default_na": False, "na_values": []}


def files(folders):
    roots = [pathlib.Path(folder) for folder in folders]
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found and found.submodule_search_locations:
            roots += [pathlib.Path(root) for root in found.submodule_search_locations]
    for root in roots:
        for path in sorted(root.rglob("*")):
            name = path.name.lower().removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
            if pathlib.Path(name).suffix in KINDS and path.is_file() and path.stat().st_size < LARGEST:
                yield path


def pipeline(path, settings, distinct=None):
    load = json.dumps({"from": str(path), **settings})
    exports = "".join(
        f"  {name}: {{ stage: export, inputs: {{ rows: rows }}, with: {{ format: {name} }} }}\n" for name in FORMATS
    )
    return f"""
paraloom: 1
name: real
part_rows: 16384
nodes:
  rows: {{ stage: load, with: {load} }}
  all: {{ stage: threshold, inputs: {{ rows: rows }}, with: {{ keep: "true" }} }}
  some: {{ stage: split, inputs: {{ rows: all }}, with: {{ share: 0.3 }} }}
{"" if distinct is None else f"  once: {{ stage: dedup, inputs: {{ rows: all }}, with: {{ by: [{json.dumps(distinct)}], exact: true }} }}"}
{exports}"""


def run(binary, folder, text):
    (folder / "p.yaml").write_text(text)
    return subprocess.run(
        [binary, "run", folder / "p.yaml", "--store", folder / "store"], capture_output=True, text=True, timeout=600
    )


def shown(binary, folder, node):
    out = subprocess.run(
        [binary, "show", folder / "p.yaml", node, "--store", folder / "store", "--json", "--limit", "100000000"],
        capture_output=True, text=True, check=True,
    )
    return [json.loads(line) for line in out.stdout.splitlines()]


def cell(value):
    """A cell as what it means: numbers as numbers, missing as none, all else as text."""
    if value is None or value is pandas.NaT or value is pandas.NA:
        return None
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return bool(value)
    if isinstance(value, (int, float)) or hasattr(value, "dtype") and value.dtype.kind in "iuf":
        number = float(value)
        return None if math.isnan(number) else int(value) if number == int(value) and abs(number) < 1 << 62 else number
    return str(value)


def meant(text):
    """A cell of a text file by the same rule as the loaded one, whichever type its column got."""
    if isinstance(text, str):
        if text == "":
            return None
        try:
            return cell(float(text)) if "_" not in text else text
        except ValueError:
            return {"true": True, "false": False}.get(text.lower(), text)
    return cell(text)


def same(a, b):
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-12)
    return a == b


def reference(path, settings):
    name = path.name.lower()
    if ".parquet" in name:
        return pyarrow.parquet.read_table(path).to_pylist()
    if ".json" in name or ".ndjson" in name:
        return [json.loads(line) for line in open(path, encoding="utf-8") if line.strip()]
    separator = settings.get("delimiter", "\t" if ".tsv" in name else ",")
    quoting = {"quoting": 3} if ".tsv" in name else {}
    frame = pandas.read_csv(path, sep=separator, dtype=str, encoding=settings.get("encoding", "utf-8"), **PLAIN, **quoting)
    return frame.to_dict("records")


def compare(path, settings, rows, problems):
    expected = reference(path, settings)
    if len(expected) != len(rows):
        problems.append(f"{len(rows)} rows, and not {len(expected)}")
        return
    for number, (own, other) in enumerate(zip(rows, expected)):
        own = [value for name, value in own.items() if name not in ("_id", "_parent")]
        other = list(other.values())[: len(own)] if len(own) <= len(other) else list(other.values())
        for at, (a, b) in enumerate(zip(own, other)):
            if isinstance(b, (dict, list)) or isinstance(a, (dict, list)) or not isinstance(b, (str, int, float, bool, type(None))):
                continue
            if not same(meant(a), meant(b)):
                problems.append(f"row {number + 1}, column {at + 1}: {a!r}, and not {b!r}")
                return


def check_exports(binary, folder, rows, problems):
    plain = [[value for name, value in row.items() if name not in ("_id", "_parent")] for row in rows]
    for path in sorted((folder / "store").rglob("rows.*")):
        kind = path.suffix[1:]
        if kind not in FORMATS:
            continue
        again = folder / f"again-{kind}"
        again.mkdir()
        text = f"paraloom: 1\nname: again\npart_rows: 16384\nnodes:\n  rows: {{ stage: load, with: {{ from: {json.dumps(str(path))} }} }}\n"
        done = run(binary, again, text)
        if done.returncode != 0:
            problems.append(f"{kind} is not read back: {done.stderr.strip()[-300:]}")
            continue
        back = [[value for name, value in row.items() if name not in ("_id", "_parent")] for row in shown(binary, again, "rows")]
        for number, (a, b) in enumerate(zip(plain, back)):
            if not all(same(meant(x), meant(y)) for x, y in zip(a, b)) or len(a) != len(b):
                problems.append(f"{kind}, row {number + 1}: {b!r}, and not {a!r}")
                break
        if len(plain) != len(back):
            problems.append(f"{kind} has {len(back)} rows, and not {len(plain)}")
        if kind in ("csv", "tsv"):
            frame = pandas.read_csv(path, sep="," if kind == "csv" else "\t", dtype=str, **PLAIN)
            if len(frame) != len(plain):
                problems.append(f"pandas reads {len(frame)} rows of {kind}")
        others = {"polars": lambda: rows_of_polars(path, kind), "DuckDB": lambda: rows_of_duckdb(path, kind)}
        for name, count in others.items():
            if plain and (found := count()) != len(plain):
                problems.append(f"{name} reads {found} rows of {kind}, and not {len(plain)}")


def rows_of_polars(path, kind):
    if kind == "parquet":
        return len(polars.read_parquet(path))
    if kind == "jsonl":
        return len(polars.read_ndjson(path, infer_schema_length=None))
    return len(polars.read_csv(path, separator="," if kind == "csv" else "\t", infer_schema=False, raise_if_empty=False))


def rows_of_duckdb(path, kind):
    reader = {"parquet": "read_parquet(?)", "jsonl": "read_json(?, format = 'nd', maximum_object_size = 100000000)"}
    delimited = f"read_csv(?, delim = '{',' if kind == 'csv' else chr(9)}', header = true, quote = '\"', escape = '\"', all_varchar = true)"
    return duckdb.execute(f"select count(*) from {reader.get(kind, delimited)}", [str(path)]).fetchone()[0]


def check_dedup(binary, folder, path, settings, rows, problems):
    """One row of each value of the first column that is neither a list nor a mapping, and all others rejected."""
    names = [name for name in (rows[0] if rows else {}) if name not in ("_id", "_parent", "reason")]
    name = next((name for name in names if not any(isinstance(row[name], (list, dict)) for row in rows)), None)
    if name is None or "reason" in rows[0]:
        return
    # The same store: what is there is not done again.
    done = run(binary, folder, pipeline(path, settings, name))
    if done.returncode:
        problems.append(f"dedup by {name}: {done.stderr.strip()[-300:]}")
        return
    kept, rejected = (len(shown(binary, folder, node)) for node in ("once.kept", "once.rejected"))
    distinct = len({json.dumps(row[name]) for row in rows})
    if kept != distinct or kept + rejected != len(rows):
        problems.append(f"dedup by {name} keeps {kept} and rejects {rejected} of {len(rows)} rows with {distinct} values")


def refused(stderr):
    """The settings that the error itself proposes."""
    ways = {"encoding: windows-1252": {"encoding": "windows-1252"}, 'delimiter: ";"': {"delimiter": ";"}, "nested: json": {"nested": "json"}}
    return next((settings for way, settings in ways.items() if way in stderr), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paraloom", default="target/release/paraloom")
    parser.add_argument("folders", nargs="*")
    arguments = parser.parse_args()
    binary = str(pathlib.Path(arguments.paraloom).resolve())
    counts = collections.Counter()
    for path in files(arguments.folders):
        problems, settings = [], {}
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for _ in range(3):
                done = run(binary, folder, pipeline(path, settings))
                way = refused(done.stderr) if done.returncode else None
                if way is None or way.items() <= settings.items():
                    break
                settings |= way
            if done.returncode:
                counts["refused"] += 1
                print(f"refused  {path}\n         {done.stderr.strip()[:400]}", flush=True)
                continue
            rows = shown(binary, folder, "rows")
            compare(path, settings, rows, problems)
            kept, held = (len(shown(binary, folder, node)) for node in ("some.kept", "some.held_out"))
            if kept + held != len(rows):
                problems.append(f"split into {kept} and {held} of {len(rows)}")
            check_exports(binary, folder, rows, problems)
            check_dedup(binary, folder, path, settings, rows, problems)
        counts["differ" if problems else "same"] += 1
        print(f"{'DIFFERS' if problems else 'same   '}  {len(rows):7}  {path} {settings or ''}", *problems, sep="\n         ", flush=True)
    print(dict(counts))
    sys.exit(1 if counts["differ"] else 0)


if __name__ == "__main__":
    main()
