#!/usr/bin/env bash
# Clients that exist against a server of a small model: `openai`, `huggingface_hub`, and schemathesis, which makes up requests from
# /openapi.json. They are installed outside of the clone. Exit code 75: they are not at hand, and PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv="${PARALOOM_CLIENTS_VENV:-$HOME/.cache/paraloom/clients}"
binary="${CARGO_TARGET_DIR:-target}/release/paraloom"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" >&2
"$venv/bin/python" -m pip install --quiet --retries 1 --timeout 20 openai huggingface_hub schemathesis >&2 ||
  "$venv/bin/python" -c "import huggingface_hub, openai, schemathesis" 2>/dev/null || exit 75
exec "$venv/bin/python" tests/clients/clients.py --paraloom "$binary"
