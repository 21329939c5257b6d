#!/usr/bin/env bash
# Makes, or finds, a Python with the newest releases of some packages, outside of the clone, and prints its path. By uv, which takes
# seconds where pip takes minutes. Exit code 75: a package is missing, and PyPI cannot be reached.
# Usage: tests/python.sh NAME PACKAGE...
set -euo pipefail
venvs="${PARALOOM_VENVS:-$HOME/.cache/paraloom}"
name="$1"; shift
mkdir -p "$venvs"
# Another suite may be making the same one.
exec 9>"$venvs/$name.lock"
flock 9
uv="$venvs/uv/bin/uv"
if [ ! -x "$uv" ]; then
  exec 8>"$venvs/uv.lock"
  flock 8
  { [ -x "$uv" ] || { python3 -m venv "$venvs/uv" && "$venvs/uv/bin/python" -m pip install --quiet --retries 1 --timeout 20 uv; }; } >&2 || exit 75
  flock --unlock 8
fi
python="$venvs/$name/bin/python"
install() { "$uv" pip install --quiet --python "$python" "$@" >&2; }
[ -x "$python" ] || "$uv" venv --quiet --python "$(command -v python3)" "$venvs/$name" >&2
# Without a network those that are there will do.
UV_HTTP_TIMEOUT=20 install --upgrade "$@" || install --offline "$@" || exit 75
echo "$python"
