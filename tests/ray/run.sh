#!/usr/bin/env bash
# `run --on ray` on three nodes of a Ray cluster on loopback, with a store in moto's S3: the same bytes as a local run, also
# when a node is killed, when the job is killed and started again, and with two at once; and what is wrong is said.
# Ray is installed outside of the clone. Exit code 75: it is not at hand, and PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
repository="$PWD"
python="$(tests/python.sh ray 'ray[default]' 'moto[server]')"
venv="$(dirname "$(dirname "$python")")"
cargo build --release
paraloom="${CARGO_TARGET_DIR:-$repository/target}/release/paraloom"
work="$(mktemp -d)"
cd "$work"
started=()
# Of what was started here, and nothing else.
trap 'kill "${started[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
free_port() { "$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
s3=$(free_port) gcs=$(free_port) dashboard=$(free_port)
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_REGION=us-east-1 AWS_ENDPOINT_URL="http://127.0.0.1:$s3"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=a-token-of-this-test-only RAY_USAGE_STATS_ENABLED=0
"$venv/bin/moto_server" -H 127.0.0.1 -p "$s3" >moto.log 2>&1 & started+=($!)
until curl --silent --fail -X PUT "$AWS_ENDPOINT_URL/bucket" >/dev/null; do sleep 0.2; done

# Each node has its own directories, as on machines of their own. `--block`: it ends with the process that started it.
node() {
  local address="$1"; shift
  PARALOOM_CACHE="$work/cache-$address" "$venv/bin/ray" start --block --node-ip-address="$address" --num-cpus=1 \
    --temp-dir="$work/ray-$address" --disable-usage-stats "$@" >"ray-$address.log" 2>&1 & started+=($!)
}
node 127.0.0.4 --head --port="$gcs" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard"
address="http://127.0.0.1:$dashboard"
until curl --silent --fail -H "Authorization: Bearer $RAY_AUTH_TOKEN" "$address/api/version" >/dev/null; do sleep 0.5; done
node 127.0.0.5 --address="127.0.0.4:$gcs"
node 127.0.0.6 --address="127.0.0.4:$gcs"
last_node=${started[-1]}

cp -r "$repository/pipelines/quickstart-base" "$repository/pipelines/corpus" .
cp "$repository/tests/cluster.yaml" p.yaml
"$paraloom" run p.yaml --threads 1 2>local.log
"$paraloom" export p.yaml grammar --to expected.csv
on_ray() { "$paraloom" run p.yaml --on ray --address "$address" --python "$venv/bin/python" --workers 3 "$@"; }
check() {
  "$paraloom" export p.yaml grammar --store "$1" --to "$2.csv"
  cmp expected.csv "$2.csv"
  echo "ok: $2 ($SECONDS s)"
}
# Waits until a job has got so far.
until_says() {
  for _ in $(seq 600); do grep -q "$2" "$1" && return; sleep 0.1; done
  cat "$1"; echo "\`$2\` was not said"; exit 1
}
nodes() { curl --silent -H "Authorization: Bearer $RAY_AUTH_TOKEN" "$address/nodes?view=summary" | grep -o '"state": *"ALIVE"' | wc -l; }
for _ in $(seq 100); do [ "$(nodes)" -ge 3 ] && break; sleep 0.2; done

on_ray --store s3://bucket/one >one.log 2>&1 || { cat one.log; exit 1; }
check s3://bucket/one "three nodes"

# Two at once.
on_ray --store s3://bucket/two >two.log 2>&1 & first=$!
on_ray --store s3://bucket/two >two-b.log 2>&1 || { cat two-b.log; exit 1; }
wait "$first" || { cat two.log; exit 1; }
check s3://bucket/two "two jobs at once"

# The job is stopped by a signal, as by Ctrl-C, and goes on.
"$paraloom" run p.yaml --on ray --address "$address" --python "$venv/bin/python" --store s3://bucket/three >three.log 2>&1 & job=$!
until_says three.log "workers on"
kill -TERM "$job"  # a shell has its background jobs ignore SIGINT
wait "$job" && { echo "a job that was stopped said that it is done"; exit 1; }
grep -q "the same command goes on from here" three.log || { cat three.log; exit 1; }
on_ray --store s3://bucket/three >three-b.log 2>&1 || { cat three-b.log; exit 1; }
check s3://bucket/three "stopped and run again"

# A node is killed, with all that it runs.
on_ray --store s3://bucket/four >four.log 2>&1 & job=$!
until_says four.log "\[./3\]"
kill -9 "$last_node" $(pgrep -f "ray-127.0.0.6" || true) 2>/dev/null || true
wait "$job" || { cat four.log; exit 1; }
check s3://bucket/four "a node killed"

# What is wrong is said.
says() { local text="$1"; shift; "$@" >said.log 2>&1 && { echo "it did not fail: $*"; exit 1; }; grep -qF -- "$text" said.log || { cat said.log; exit 1; }; }
says "wants another token" env RAY_AUTH_TOKEN=wrong "$paraloom" run p.yaml --on ray --address "$address" --store s3://bucket/five
says "cannot be reached" "$paraloom" run p.yaml --on ray --address "http://127.0.0.1:$(free_port)" --store s3://bucket/five
says "is no Ray cluster" "$paraloom" run p.yaml --on ray --address "$AWS_ENDPOINT_URL" --store s3://bucket/five
says "\`--python\` names" "$paraloom" run p.yaml --on ray --address "$address" --store s3://bucket/five --python no-python
says "no worker fits" on_ray --store s3://bucket/five --worker-gpus 1
says "does not see the store" "$paraloom" run p.yaml --on ray --address "$address" --store here
echo "ok: what is wrong is said ($SECONDS s)"
