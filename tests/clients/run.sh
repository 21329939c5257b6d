#!/usr/bin/env bash
# Clients that exist against a server of a small model: `openai`, `huggingface_hub`, and schemathesis, which makes up requests from
# /openapi.json. They are installed outside of the clone. Exit code 75: they are not at hand, and PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary="${CARGO_TARGET_DIR:-target}/release/paraloom"
python="$(tests/python.sh clients openai huggingface_hub schemathesis)"
exec "$python" tests/clients/clients.py --paraloom "$binary"
