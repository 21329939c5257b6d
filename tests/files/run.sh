#!/usr/bin/env bash
# Real files against pandas, pyarrow, polars and DuckDB, in an environment outside of the clone. Folders to look through as well are
# taken from the command line. Exit code 75: PyPI cannot be reached, and the environment is not there.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv="${PARALOOM_FILES_VENV:-$HOME/.cache/paraloom/venv-files}"
binary="${CARGO_TARGET_DIR:-target}/release/paraloom"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" >&2
# The first four read the files, the others bring some along.
packages=(pandas pyarrow polars duckdb scikit-learn statsmodels vega_datasets plotly)
"$venv/bin/python" -m pip install --quiet --retries 1 --timeout 20 "${packages[@]}" >&2 ||
  "$venv/bin/python" -c "import duckdb, pandas, polars, pyarrow, sklearn, statsmodels" 2>/dev/null || exit 75
exec "$venv/bin/python" tests/files/real.py --paraloom "$binary" "$@"
