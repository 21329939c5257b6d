#!/usr/bin/env bash
# Which lines of the engine the tests run: a table by crate, and a failure where they are too few. All lines of what commits a
# result must run. A process that is killed, or that finds no memory, leaves no counts: what runs only there counts as not run.
set -euo pipefail
cd "$(dirname "$0")/../.."
least=90
commit='^engine/store/src/(artifact|disk|entry|lock|part|sealed)[.]rs$'

rustup component add llvm-tools
tools="$(rustc --print target-libdir)/../bin"
built="${CARGO_TARGET_DIR:-target}"
mkdir -p "$built"/release/{.fingerprint,build,deps}
built="$(realpath "$built")"
# A directory of its own: what is not instrumented must not be taken for up to date, nor the other way round. The
# dependencies are those that have been built, not built anew: they come over as links.
export CARGO_TARGET_DIR="$built/coverage" CARGO_INCREMENTAL=0
rm -rf "$CARGO_TARGET_DIR"
mkdir -p "$CARGO_TARGET_DIR/release"
(
  cd "$built/release"
  find .fingerprint build deps -mindepth 1 -maxdepth 1 ! -name '*paraloom*' -print0 |
    xargs -0 --no-run-if-empty cp --archive --link --parents --target-directory "$CARGO_TARGET_DIR/release"
)
# Cargo calls it for the crates of the workspace and for no others, which so stay as they are.
export RUSTC_WORKSPACE_WRAPPER="$PWD/tests/coverage/rustc.sh"
counts="$CARGO_TARGET_DIR/counts"
export LLVM_PROFILE_FILE="$counts/%p-%m.profraw"

ours=(--workspace --exclude paraloom-stages-t5-torch)
cargo test --release "${ours[@]}" --no-run --message-format=json >"$CARGO_TARGET_DIR/built.json"
PARALOOM_POWER=1 cargo test --release "${ours[@]}"

mapfile -t objects < <(sed -n 's/.*"executable":"\([^"]*\)".*/--object=\1/p' "$CARGO_TARGET_DIR/built.json")
for library in "$CARGO_TARGET_DIR"/release/*.so; do objects+=("--object=$library"); done
# What was killed while it wrote its counts is passed over.
"$tools/llvm-profdata" merge --sparse --failure-mode=all --output "$counts.profdata" "$counts"
"$tools/llvm-cov" export --format=lcov --instr-profile "$counts.profdata" "${objects[@]}" \
  --ignore-filename-regex='/rustc/|/registry/|/tests(/|[.]rs$)' >"$CARGO_TARGET_DIR/lcov"
awk -F '[:,]' -v root="$PWD/" -v least=$least -v commit="$commit" '
  /^SF:/ { file = substr($0, 4); sub(root, "", file); split(file, part, "/"); crate = part[1] "/" part[2] }
  /^DA:/ && file ~ /^engine/ {
    lines[crate]++
    total++
    if ($3 > 0) { run[crate]++; sum++ } else if (file ~ commit) missed = missed "\n  " file ":" $2
  }
  END {
    for (crate in lines) printf "%-18s %6d lines %6.1f %%\n", crate, lines[crate], 100 * run[crate] / lines[crate] | "sort"
    close("sort")
    printf "%-18s %6d lines %6.1f %%\n", "engine", total, 100 * sum / total
    if (missed) print "not run of what commits a result:" missed
    if (100 * sum < least * total) print "fewer than " least " % of the lines of the engine are run"
    exit missed || 100 * sum < least * total
  }' "$CARGO_TARGET_DIR/lcov"
