#!/usr/bin/env bash
# Makes, or finds, a Python with the newest transformers, outside of the clone; prints its path.
# Exit code 75: there is none yet, and PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
# protobuf: transformers reads spiece.model with it.
exec tests/python.sh venv transformers torch safetensors tokenizers sentencepiece protobuf numpy peft datasets
