#!/usr/bin/env bash
# The suites of docs/resuming.md, scaled up: an hour or two. `tests/nightly.sh middle` takes minutes, as .ci/run does.
# Suites that draw lots print PARALOOM_SEED; the same seed repeats a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

export PARALOOM_FAULTS=all PARALOOM_POWER=20 PARALOOM_CUT_STEP=13 PARALOOM_READS=10000 PARALOOM_TEXTS=1000000
if [ "${1:-}" = middle ]; then
  export PARALOOM_TRAINING_KILLS=30 PARALOOM_DAGS=1000 PARALOOM_DISKS=8 PARALOOM_MEMORIES=40 PARALOOM_PAIRS=20 \
    PARALOOM_FLIPS=10000 PARALOOM_ORDERS=10000 PARALOOM_EDITS=1500
  kills=200
else
  export PARALOOM_TRAINING_KILLS=200 PARALOOM_DAGS=10000 PARALOOM_DISKS=64 PARALOOM_MEMORIES=800 PARALOOM_PAIRS=100 \
    PARALOOM_FLIPS=100000 PARALOOM_ORDERS=100000 PARALOOM_EDITS=10000
  kills=1000
fi
# The engine without the backends that are built on request: nothing here is their own.
ours=(--workspace --exclude paraloom-stages-t5-torch --exclude paraloom-stages-t5-cuda --exclude paraloom-stages-t5-wgpu)
PARALOOM_KILLS=$kills cargo test --release --test it --test in_process -- --nocapture --test-threads=1 \
  resume:: limits:: memory:: together:: rerun:: edits:: faults::
# Here the kills are cuts of the power after a kill, of which every one has many states.
PARALOOM_KILLS=10 cargo test --release "${ours[@]}" --test diagnostics --test flips --test power --test damage --test races --test gc
cargo test --release "${ours[@]}" --lib -- board::

# A server for an hour, and a thousand requests for each path that schemathesis makes up.
if [ "${1:-}" = middle ]; then
  tests/soak.sh 2 200
else
  tests/soak.sh 60 1
  PARALOOM_FUZZ=1000 tests/clients/run.sh || [ $? = 75 ]
fi

# Which lines of the engine are run: nine of ten at least, and all of those that commit a result.
if [ "${1:-}" != middle ]; then
  tests/coverage/run.sh
fi

# The archive that users install, in a bare Debian 11.
if [ "${1:-}" != middle ]; then
  tests/dist/run.sh || [ $? = 75 ]
fi

# Workers as a job array of Slurm, where its packages are (slurmctld, slurmd, slurm-client).
if [ "${1:-}" != middle ]; then
  tests/slurm/run.sh || [ $? = 75 ]
fi

# The suites by torch's own operations, which are what a GPU runs, and their numbers, live against the newest transformers.
if [ "${1:-}" != middle ]; then
  PARALOOM_TORCH_KERNELS=1 cargo xtask torch test
  python="$(tests/fidelity/venv.sh)" && venv=0 || venv=$?
  if [ "$venv" = 0 ]; then
    cargo xtask torch
    PARALOOM_TORCH_KERNELS=1 "$python" tests/fidelity/live.py --backend torch
    "$python" tests/fidelity/keys.py
  elif [ "$venv" != 75 ]; then
    exit "$venv"
  fi
fi

# The backends for GPUs compile, without warnings. DOCS_RS: without LLVM, which is fetched otherwise.
if [ "${1:-}" != middle ]; then
  cargo xtask wgpu clippy --all-targets -- --deny warnings
  DOCS_RS=1 cargo xtask cuda clippy --all-targets -- --deny warnings
fi

# The T5 suites on wgpu, where there is Vulkan: Mesa's software one does (mesa-vulkan-drivers), in some ten minutes.
if [ "${1:-}" != middle ] && compgen -G "/usr/share/vulkan/icd.d/*.json" >/dev/null; then
  cargo xtask wgpu
  cargo xtask wgpu test
  cargo test --release --test it backends::
fi

# Whether a test notices what is changed in the store and in the keys, one thing at a time: 19 of 20 at least.
if [ "${1:-}" != middle ] && cargo mutants --version; then
  out="$(mktemp -d)"
  # 2: some were missed; 3: some ran for ever, which is noticed too.
  PARALOOM_POWER=1 PARALOOM_KILLS=3 PARALOOM_FLIPS=50 PARALOOM_RACES=2 PARALOOM_READS=1000 PARALOOM_CUT_STEP=101 \
    cargo mutants --package paraloom-store --output "$out" || [ $? = 2 ] || [ $? = 3 ]
  noticed="$(cat "$out"/mutants.out/{caught,timeout}.txt | wc -l)" missed="$(wc -l <"$out/mutants.out/missed.txt")"

  # The tests of keys are those of the root package, which cargo-mutants does not run for another one. They build the binary
  # from this directory, so each change is made here and taken back.
  keys=engine/exec/src/keys.rs
  git diff --quiet -- "$keys"
  trap 'git checkout --quiet -- "$keys"' EXIT
  cargo mutants --no-config --list --json --diff --package paraloom-exec --file "$keys" >"$out/keys.json"
  python3 -c 'import json, sys
for number, mutant in enumerate(json.load(open(sys.argv[1]))):
    open(f"{sys.argv[2]}/{number}.diff", "w").write(mutant["diff"])' "$out/keys.json" "$out"
  for change in "$out"/*.diff; do
    patch --quiet "$keys" "$change"
    if ! cargo build --release; then
      echo "not a program"
    elif cargo test --release --test it keys:: hub::; then
      missed=$((missed + 1))
      cat "$change"
    else
      noticed=$((noticed + 1))
    fi
    git checkout --quiet -- "$keys"
  done
  echo "$noticed of $((noticed + missed)) changes are noticed"
  [ $((noticed * 20)) -ge $(((noticed + missed) * 19)) ]
fi
