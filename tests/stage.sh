#!/usr/bin/env bash
# A stage of one's own, as docs/writing-a-stage.md has it: written by `paraloom stages new`, tested, built, and run.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-$PWD/target}"
paraloom="$target/release/paraloom"
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
"$paraloom" stages new "$dir/my-stage" --sdk engine/sdk
# The versions of this project, which are here already.
cp Cargo.lock "$dir/my-stage/"
cd "$dir/my-stage"
# Apart from the project's own, whose profile differs; kept from run to run.
export CARGO_TARGET_DIR="$target/my-stage"
cargo test
# Not --release, which would take four minutes more for nothing that is looked at here.
cargo build
stages=(--stages "$CARGO_TARGET_DIR/debug/libmy_stage.so")
"$paraloom" run pipeline.yaml "${stages[@]}"
rows="$("$paraloom" show pipeline.yaml done --csv --columns text "${stages[@]}")"
[ "$rows" = $'text\nPUT YOUR ROWS HERE' ]
"$paraloom" stages my-stage "${stages[@]}"
"$paraloom" stages test pipeline.yaml done "${stages[@]}"
