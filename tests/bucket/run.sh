#!/usr/bin/env bash
# The tests that need an object store, against moto's S3 server, which is installed outside of the clone.
# (s3s-fs, which is faster, lets several writers win where one may.) Exit code 75: it is not at hand, and PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv="${PARALOOM_MOTO_VENV:-$HOME/.cache/paraloom/moto}"
if [ ! -x "$venv/bin/moto_server" ]; then
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv" >&2
  "$venv/bin/python" -m pip install --quiet --retries 1 --timeout 20 'moto[server]' >&2 || exit 75
fi
PARALOOM_MOTO="$venv/bin/moto_server" cargo test --release --test it workers::
