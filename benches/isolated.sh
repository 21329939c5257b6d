#!/usr/bin/env bash
# What a process of its own costs a stage: milliseconds of a node that hands on its rows, isolated and in the engine's process.
#
#     benches/isolated.sh [ROWS...]
#
# After `cargo build --release`; wants cc and python3.
set -euo pipefail
cd "$(dirname "$0")/.."
paraloom="${CARGO_TARGET_DIR:-$PWD/target}/release/paraloom"
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
cc -O2 -shared -fPIC -I engine/abi/include -o "$dir/unruly.so" tests/abi/unruly.c
cd "$dir"
run() { "$paraloom" run p.yaml --stages unruly.so --json "$@"; }
for rows in "${@:-330 2000000}"; do
    for count in $rows; do
        python3 -c '
import random, sys
random.seed(1)
words = "the company said its board approved a plan to raise prices in may after profits fell".split()
print("text")
for row in range(int(sys.argv[1])):
    print(" ".join(random.choices(words, k=20)), row)' "$count" > rows.csv
        cat > p.yaml <<YAML
paraloom: 1
name: isolated
part_rows: $((count > 4096 ? 4096 : 128))
nodes:
  rows: { stage: load, with: { from: rows.csv } }
  n: { stage: unruly, inputs: { rows: rows } }
YAML
        for mode in "" --in-process; do
            for _ in 1 2 3 4 5; do
                rm -rf .paraloom
                run --until rows > /dev/null
                # shellcheck disable=SC2086
                run $mode | sed -n "s/.*\"node_finished\",\"node\":\"n\".*\"ms\":\([0-9]*\).*/$count rows ${mode:-isolated}: \1 ms/p"
            done
        done
    done
done
