"""Starts Paraloom workers on a Ray cluster, and ends once one of them has found all results in the store.

Each worker takes its shard and then whatever nobody has committed, so what a dead or a frozen node has left is done by the
others, and the driver hands nothing out: it starts workers, starts one anew whose node has died, and passes on what they say.
"""

import argparse
import ctypes
import os
import platform
import signal
import subprocess
import sys

# Each line of each worker counts.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import ray

# A worker exits so when it was asked to stop, or killed: it may be started anew.
STOPPED = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL, 129, 130, 137, 143}


def die_with_parent():
    """Ends a worker whose actor has died: nobody would hear of it."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@ray.remote(max_retries=-1, retry_exceptions=[ConnectionError])
def work(index, count, machine, command):
    """Runs a worker in the unpacked package; its exit code."""
    here = platform.machine()
    if here != machine:
        node = ray.util.get_node_ip_address()
        raise RuntimeError(f"the binary is for {machine}, and the node {node} is {here}")
    command = [*command, "--shard", f"{index}/{count}"]
    os.chmod(command[0], 0o755)
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                             errors="replace", preexec_fn=die_with_parent)
    try:
        for line in child.stderr:
            print(f"[{index}/{count}] {line.rstrip()}", flush=True)
        code = child.wait()
    finally:
        child.kill()
    if code in STOPPED:
        raise ConnectionError(f"worker {index}/{count} was stopped")
    return code


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=0, help="0: one for each that fits")
    parser.add_argument("--cpus", type=float, default=1)
    parser.add_argument("--gpus", type=float, default=0)
    parser.add_argument("--machine", required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    ray.init(log_to_driver=True)
    there = ray.cluster_resources()
    fits = [there.get("CPU", 0) // options.cpus] if options.cpus else []
    fits += [there.get("GPU", 0) // options.gpus] if options.gpus else []
    room = int(min(fits, default=1))
    if room < 1:
        sys.exit(f"no worker fits: the cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, "
                 f"and a worker asks for {options.cpus:g} and {options.gpus:g}")
    count = options.workers or room
    print(f"{count} workers on {sum(node['Alive'] for node in ray.nodes())} nodes", flush=True)
    start = work.options(num_cpus=options.cpus, num_gpus=options.gpus, scheduling_strategy="SPREAD")
    left = [start.remote(index, count, options.machine, options.command) for index in range(count)]
    worst = 1
    while left:
        done, left = ray.wait(left, num_returns=1)
        try:
            code = ray.get(done[0])
        except Exception as error:
            print(f"a worker failed: {error}", file=sys.stderr, flush=True)
            continue
        if code == 0:
            for worker in left:
                ray.cancel(worker, force=True)
            return 0
        worst = code
    return worst


if __name__ == "__main__":
    sys.exit(main())
