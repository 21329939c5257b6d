#!/usr/bin/env bash
# A server of the quickstart's small model under benches/soak.py: no 5xx, no request without an answer, and memory that stays.
# Usage: tests/soak.sh [MINUTES] [MIB AN HOUR]. A few minutes show a leak of some KiB a request, an hour one of tens of bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes="${1:-60}" slope="${2:-1}"
paraloom="${CARGO_TARGET_DIR:-target}/release/paraloom"
work="$(mktemp -d)"
server=
cargo build --release
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
# The base model writes and judges, so that nothing has to be trained.
"$paraloom" run pipelines/quickstart.yaml --until base --store "$work/store" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
"$paraloom" serve pipelines/quickstart.yaml qualified --model base --store "$work/store" --bind 127.0.0.1:0 2>"$work/log" &
server=$!
address=
for _ in $(seq 300); do
  address="$(sed -n 's|.* at http://\([^ ]*\)$|\1|p' "$work/log")"
  [ -z "$address" ] && kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
[ -n "$address" ] || { cat "$work/log" >&2; exit 1; }
python3 benches/soak.py "$address" "$server" --minutes "$minutes" --rate 20 --slope "$slope"
# It has not lost count of anybody, and ends as it should.
kill "$server"
wait "$server"
server=
