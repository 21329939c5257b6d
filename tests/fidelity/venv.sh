#!/usr/bin/env bash
# Makes, or finds, a Python with the newest transformers, outside of the clone; prints its path.
# Exit code 75: PyPI cannot be reached.
set -euo pipefail
venv="${PARALOOM_VENV:-$HOME/.cache/paraloom/venv}"
python="$venv/bin/python"
packages=(torch transformers safetensors tokenizers sentencepiece numpy)
ready() { "$python" -c "import sentencepiece, tokenizers, torch, transformers" 2>/dev/null; }

if ! ready; then
  if ! python3 -m pip download --quiet --no-deps --dest "$(mktemp -d)" safetensors >&2; then
    exit 75
  fi
  python3 -m venv "$venv" >&2
  "$python" -m pip install --quiet "${packages[@]}" >&2
  ready
fi
echo "$python"
