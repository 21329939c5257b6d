#!/usr/bin/env bash
# Makes, or finds, a Python with the newest transformers, outside of the clone; prints its path.
# Exit code 75: there is none yet, and PyPI cannot be reached.
set -euo pipefail
venv="${PARALOOM_VENV:-$HOME/.cache/paraloom/venv}"
python="$venv/bin/python"
# protobuf: transformers reads spiece.model with it.
others=(torch safetensors tokenizers sentencepiece protobuf numpy peft datasets)
ready() { "$python" -c "import datasets, google.protobuf, peft, sentencepiece, tokenizers, torch, transformers" 2>/dev/null; }
reachable() {
  "$python" -m pip download --quiet --retries 1 --timeout 20 --no-deps --dest "$(mktemp -d)" safetensors >&2
}

[ -x "$python" ] || python3 -m venv "$venv" >&2
if reachable; then
  "$python" -m pip install --quiet "${others[@]}" >&2
  "$python" -m pip install --quiet --upgrade transformers >&2
elif ! ready; then
  exit 75
fi
echo "$python"
