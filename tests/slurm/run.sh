#!/usr/bin/env bash
# docs/scaling-out/slurm.sh as a job array on three nodes of Slurm on loopback: the same bytes as a local run, also when a node is
# killed half-way. Slurm comes from Debian's packages (slurmctld, slurmd, slurm-client). Exit code 75: it is not at hand.
set -euo pipefail
cd "$(dirname "$0")/../.."
repository="$PWD"
PATH="$PATH:/usr/sbin"
for program in slurmctld slurmd sbatch scontrol; do
  command -v "$program" >/dev/null || exit 75
done
cargo build --release
bin="${CARGO_TARGET_DIR:-$repository/target}/release"
work="$(mktemp -d)"
cd "$work"
started=()
# Of what was started here, and nothing else.
trap 'kill "${started[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
controller=$(free_port)
mkdir state
cat >slurm.conf <<CONF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=10
StateSaveLocation=$work/state
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd-%n.pid
SlurmdSpoolDir=$work/spool-%n
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd-%n.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$(free_port) CPUs=1
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$(free_port) CPUs=1
NodeName=n3 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$(free_port) CPUs=1
PartitionName=all Nodes=n1,n2,n3 Default=YES State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
slurmctld -D >controller.log 2>&1 & started+=($!)
for node in n1 n2 n3; do
  mkdir "spool-$node"
  slurmd -D -N "$node" >"$node.log" 2>&1 & started+=($!)
done
last_node=${started[-1]}
ready() { [ "$(sinfo --noheader --Node --format=%T 2>/dev/null | grep -c idle)" = 3 ]; }
for _ in $(seq 300); do ready && break; sleep 0.2; done
ready || { cat controller.log slurmctld.log ./*.log; echo "Slurm does not start"; exit 1; }
echo "ok: three nodes ($SECONDS s)"

cp -r "$repository/pipelines/quickstart-base" "$repository/pipelines/corpus" .
cp "$repository/tests/cluster.yaml" p.yaml
"$bin/paraloom" run p.yaml --store local --threads 1 2>local.log
"$bin/paraloom" export p.yaml grammar --store local --to expected.csv
check() {
  "$bin/paraloom" export p.yaml grammar --store "$1" --to "$1.csv"
  cmp expected.csv "$1.csv"
  echo "ok: $2 ($SECONDS s)"
}
# As a user submits it, with fewer and smaller tasks.
submit() {
  PATH="$bin:$PATH" sbatch --parsable --array=0-2 --cpus-per-task=1 --output="$work/task-%A-%a.log" \
    "$repository/docs/scaling-out/slurm.sh" p.yaml "$1"
}
left() { squeue --noheader --jobs "$1" 2>/dev/null | wc -l; }
ended() { for _ in $(seq 900); do [ "$(left "$1")" = 0 ] && return; sleep 0.2; done; cat task-*.log; echo "job $1 does not end"; exit 1; }

job=$(submit "$work/whole")
ended "$job"
check whole "three tasks"

job=$(submit "$work/killed")
for _ in $(seq 300); do ls killed/entries/*/*/parts.log >/dev/null 2>&1 && break; sleep 0.1; done
kill -KILL "$last_node"
pkill -KILL -P "$last_node" || true
# The other tasks do what the lost one has left; the requeued one is not waited for.
done_by_others() { ! "$bin/paraloom" plan p.yaml --store killed --json 2>/dev/null | grep -qE '"state": ?"(run|partial|stale)"'; }
for _ in $(seq 900); do done_by_others && break; sleep 0.2; done
check killed "a node that was killed"
scancel "$job" || true
