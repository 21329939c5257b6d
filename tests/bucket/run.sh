#!/usr/bin/env bash
# The tests that need an object store, against moto's S3 server, which is installed outside of the clone.
# (s3s-fs, which is faster, lets several writers win where one may.) Exit code 75: it is not at hand, and PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="$(tests/python.sh moto 'moto[server]')"
PARALOOM_MOTO="$(dirname "$python")/moto_server" cargo test --release --test it workers::
