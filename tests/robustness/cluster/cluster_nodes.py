# SPDX-License-Identifier: Apache-2.0
"""What tests of a cluster share: a trainer's settings for it, and looks at its nodes and at a log."""

import asyncio
import sys
from pathlib import Path

from finetree_api.trainer.v1 import capacity_pb2
from held_port import held_port

HERE = Path(__file__).parent


def on(nodes, seconds: float = 1.0, **changes: object) -> dict:
    """Settings of a trainer whose workers run on the cluster, each step in so many seconds."""
    worker = (sys.executable, str(HERE / "slow_worker.py"), str(HERE.parent / "campaign"), str(seconds))
    return {
        "launcher": "ray",
        "ray_address": nodes.address,
        "worker_address": f"127.0.0.1:{held_port()}",
        "worker_command": worker,
        "cpu_threads": 1,
        "worker_heartbeat": 20.0,
        "start_time": 300.0,
        "cancel_grace": 20.0,
        "exit_grace": 20.0,
        "checkpoint_grace": 20.0,
        "system_retries": 9,
        **changes,
    }


async def capacity(talk, names: list[str]) -> capacity_pb2.GetCapacityResponse:
    """The capacity, as soon as exactly these nodes are there."""
    async with asyncio.timeout(120):
        while True:
            found = await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
            if sorted(node.name.rpartition("-")[0] for node in found.nodes) == sorted(names):
                return found
            await asyncio.sleep(0.2)


def steps(events) -> list[tuple[int, int]]:
    return [(event.attempt, event.step_metrics.step) for event in events if event.HasField("step_metrics")]


def attempts(events) -> list[tuple[int, int]]:
    """Number of each attempt, and the step of the checkpoint that it went on from."""
    found = [event for event in events if event.HasField("attempt_started")]
    return [(event.attempt, event.attempt_started.restored_step) for event in found]


def node_of(found: capacity_pb2.GetCapacityResponse, job: str) -> str:
    """The node that runs a job."""
    running = {node.name: [name for device in node.devices for name in device.running_jobs] for node in found.nodes}
    return next(name.rpartition("-")[0] for name, jobs in running.items() if job in jobs)
