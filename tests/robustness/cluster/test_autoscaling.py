# SPDX-License-Identifier: Apache-2.0
"""Nodes that Ray's own autoscaler brings when jobs wait, and takes away when none does."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from cluster_nodes import on
from finetree_api.trainer.v1 import capacity_pb2, job_pb2
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2
from held_port import held_port
from trainer_harness import refusal, trainer

HERE = Path(__file__).parent
IDLE_SECONDS = 3.0
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow(60)]


@pytest.fixture(scope="module")
def autoscaled() -> Iterator[SimpleNamespace]:
    """A head without processors, and an autoscaler that may start two nodes of one processor."""
    command = [sys.executable, str(HERE / "autoscaling_program.py"), str(held_port()), "2", str(IDLE_SECONDS)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    yield SimpleNamespace(**json.loads(process.stdout.readline()))
    process.stdin.close()
    process.stdout.close()
    process.wait(60)


@pytest.fixture
def settings(autoscaled, tmp_path) -> dict:
    """Those of a trainer that may have nodes brought."""
    file = tmp_path / "nodes.toml"
    file.write_text('[small]\ncpus = 1\nmemory = "4GB"\nmaximum = 2\n')
    return on(autoscaled, 0.1, ray_node_types_file=file)


async def nodes(talk, wanted: int) -> capacity_pb2.GetCapacityResponse:
    """The capacity, as soon as so many nodes are there."""
    async with asyncio.timeout(240):
        while True:
            found = await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
            if len(found.nodes) == wanted:
                return found
            await asyncio.sleep(0.2)


async def test_a_node_comes_for_a_job_and_goes_after_it(settings, tmp_path):
    async with trainer(tmp_path, **settings) as talk:
        (small,) = (await nodes(talk, 0)).node_types
        assert (small.name, small.present, small.requested, small.maximum) == ("small", 0, 0, 2)
        assert [(device.id, device.threads_per_slot) for device in small.devices] == [("cpu", 1)]
        job = await talk.train()
        waits = (await talk.until(job.name, lambda event: event.queue_changed.code == "NODE_REQUESTED", 120))[-1]
        assert waits.queue_changed.metadata["node_type"] == "small"
        assert "a node of type small was asked for at " in waits.queue_changed.blocked_by
        events = await talk.events(job.name, 300)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        (small,) = (await nodes(talk, 0)).node_types
        assert (small.present, small.requested) == (0, 0)


async def test_what_no_type_has_is_refused(settings, tmp_path):
    async with trainer(tmp_path, **settings) as talk:
        for hardware, reason in (
            ({"accelerator": "h100"}, "NO_SUCH_DEVICE"),
            ({"cpu": {}, "count": 2}, "THREADS_TOO_FEW"),
        ):
            task = job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(**hardware)))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await talk.train(task=task)
            assert refusal(refused.value)[1] == reason


async def test_a_trainer_that_stops_asks_for_no_node_and_the_next_one_asks_again(settings, tmp_path):
    async with trainer(tmp_path, **settings) as talk:
        job = await talk.train()
        first = (await talk.until(job.name, lambda event: event.queue_changed.code == "NODE_REQUESTED", 120))[-1]
    async with trainer(tmp_path, **settings) as talk:
        events = await talk.events(job.name, 300)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        again = [event.queue_changed for event in events if event.queue_changed.code == "NODE_REQUESTED"]
        assert {each.metadata["requested_time"] for each in again} == {first.queue_changed.metadata["requested_time"]}
        await nodes(talk, 0)
