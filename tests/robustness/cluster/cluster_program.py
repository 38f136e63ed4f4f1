# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of several nodes on one machine, in a process of its own that stdin tells what to do.

    add NAME CPUS   start a node
    kill NAME       SIGKILL to everything of Ray on a node at once; what Ray has not started itself is left
    kill-head       SIGKILL to the head, and no other takes its place
Each is answered by a line, the first one with the address of the head. At the end of stdin all of it is ended.
"""

import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

FOLDER = Path(tempfile.mkdtemp(prefix="ftr-", dir="/tmp"))
"""Everything of the cluster on the disk."""
os.environ |= {
    "RAY_TMPDIR": str(FOLDER),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    # A busy machine is late long before a node is dead.
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_enable_metrics_collection": "0",
}
STORE_BYTES = 80 * 2**20
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import psutil  # noqa: E402 - Ray reads its settings when it is imported
import ray  # noqa: E402
from ray._private import services  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

START_SECONDS = 300.0
"""Time that a node gets to register at the head, in place of Ray's 30 s."""
_get_node = services.get_node


def _wait_for_node(*arguments: object) -> object:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return _get_node(*arguments)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


services.get_node = _wait_for_node


def say(**fields: object) -> None:
    answers.write(json.dumps(fields) + "\n")
    answers.flush()


def processes_of(node) -> list[psutil.Process]:
    """What Ray has started for a node, without what its actors have started."""
    found = []
    for each in node.all_processes.values():
        for info in each:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(info.process.pid)
                found += [process, *(child for child in process.children(recursive=True) if not _is_worker(child))]
    return found


def _is_worker(process: psutil.Process) -> bool:
    """Whether an actor has started it; one that has just ended is none."""
    with suppress(psutil.NoSuchProcess):
        return any("slow_worker" in text for text in process.cmdline())
    return False


def kill(node) -> None:
    for process in processes_of(node):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def main() -> None:
    (FOLDER / "ray").mkdir()
    same = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **same})
    say(address=cluster.address, version=ray.__version__, folder=str(FOLDER))
    nodes = {}
    for line in sys.stdin:
        match line.split():
            case ["add", name, cpus]:
                nodes[name] = cluster.add_node(wait=False, node_name=name, num_cpus=int(cpus), **same)
            case ["kill", name]:
                kill(nodes.pop(name))
            case ["kill-head"]:
                kill(cluster.head_node)
        say(done=line.strip())
    for node in (*nodes.values(), cluster.head_node):
        kill(node)


if __name__ == "__main__":
    main()
