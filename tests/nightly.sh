#!/usr/bin/env bash
# The suites of docs/resuming.md, scaled up: an hour or two. `tests/nightly.sh middle` takes minutes, as .ci/run does.
# Suites that draw lots print PARALOOM_SEED; the same seed repeats a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = middle ]; then
  export PARALOOM_KILLS=200 PARALOOM_TRAINING_KILLS=30 PARALOOM_DAGS=1000 PARALOOM_DISKS=8 PARALOOM_PAIRS=20
else
  export PARALOOM_KILLS=1000 PARALOOM_TRAINING_KILLS=200 PARALOOM_DAGS=10000 PARALOOM_DISKS=64 PARALOOM_PAIRS=100
  export PARALOOM_FAULTS=all PARALOOM_FLIPS=100000
fi
cargo test --release --test resume --test rerun --test limits --test together -- --nocapture --test-threads=1
if [ "${1:-}" != middle ]; then
  cargo test --release --test faults
  cargo test --release --workspace flip
fi
