#!/usr/bin/env bash
# Real files against pandas, pyarrow, polars and DuckDB, in an environment outside of the clone. Folders to look through as well are
# taken from the command line. Exit code 75: PyPI cannot be reached, and the environment is not there.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary="${CARGO_TARGET_DIR:-target}/release/paraloom"
# The first four read the files, the others bring some along.
python="$(tests/python.sh venv-files pandas pyarrow polars duckdb scikit-learn statsmodels vega_datasets plotly)"
exec "$python" tests/files/real.py --paraloom "$binary" "$@"
