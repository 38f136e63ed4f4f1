# SPDX-License-Identifier: Apache-2.0
"""Workers on the nodes of a Ray cluster: several real nodes on this machine."""

import grpc
import pytest
from cluster_nodes import attempts, capacity, node_of, on, steps
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2
from finetree_data.confinement.measures import CORE, NETWORK_NAMESPACE, SOCKETS
from trainer_harness import refusal, trainer

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow(60)]


async def test_a_confined_job_moves_to_another_node_when_its_own_is_killed(nodes, tmp_path):
    nodes.have("one", "two")
    async with trainer(tmp_path, **on(nodes, confinement="required")) as talk:
        found = await capacity(talk, ["one", "two"])
        devices = [device for node in found.nodes for device in node.devices]
        assert [(device.id, device.slots, device.threads_per_slot) for device in devices] == [("cpu", 1, 1)] * 2
        job = await talk.train()
        await talk.until(job.name, lambda event: event.checkpoint_saved.step == 2, 240)
        nodes.kill(node_of(await capacity(talk, ["one", "two"]), job.name))
        events = await talk.events(job.name, 300)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        saved = max(event.checkpoint_saved.step for event in events if event.attempt == 1)
        # From the newest checkpoint, also where its event was lost with the worker.
        (_, _), (number, restored) = attempts(events)
        assert number == 2
        # On each node by the worker itself; what a network would need is left to it.
        confined = [{*event.attempt_started.confinement} for event in events if event.HasField("attempt_started")]
        assert all({*CORE} - {SOCKETS} <= found and not found & {SOCKETS, NETWORK_NAMESPACE} for found in confined)
        assert restored >= saved >= 2
        assert [step for attempt, step in steps(events) if attempt == 2] == list(range(restored + 1, 9))


async def test_jobs_wait_for_a_node_while_there_is_none(nodes, tmp_path, monkeypatch):
    nodes.have("three")
    async with trainer(tmp_path, **on(nodes)) as talk:
        await capacity(talk, ["three"])
        running = await talk.train()
        await talk.until(running.name, lambda event: event.checkpoint_saved.step == 2, 240)
        waiting = await talk.train(dataset=running.train.spec.dataset.name)
        tried, start = [], talk.application._cluster.start
        monkeypatch.setattr(talk.application._cluster, "start", lambda *order: (tried.append(order), start(*order))[1])
        nodes.kill("three")
        for job in (running, waiting):
            await talk.until(job.name, lambda event: event.queue_changed.code == "NO_SUCH_DEVICE", 240)
        # Ray may refuse the node for a while before it says that the node has gone: tries are seconds apart then.
        assert len(tried) < 10
        nodes.have("four")
        for job in (running, waiting):
            assert (await talk.events(job.name, 300))[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED


async def test_what_no_node_has_is_refused(nodes, tmp_path):
    nodes.have("four")
    async with trainer(tmp_path, **on(nodes)) as talk:
        await capacity(talk, ["four"])
        for hardware, reason in (
            ({"accelerator": "h100"}, "NO_SUCH_DEVICE"),
            ({"cpu": {}, "count": 2}, "THREADS_TOO_FEW"),
        ):
            task = job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(**hardware)))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await talk.train(task=task)
            assert refusal(refused.value)[1] == reason


async def test_a_trainer_that_is_started_again_takes_over_its_workers(nodes, tmp_path):
    nodes.have("four")
    settings = on(nodes)
    async with trainer(tmp_path, **settings) as talk:
        await capacity(talk, ["four"])
        job = await talk.train()
        await talk.until(job.name, lambda event: event.checkpoint_saved.step == 2, 240)
    async with trainer(tmp_path, **settings) as talk:
        events = await talk.events(job.name, 300)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        assert steps(events) == [(1, step) for step in range(1, 9)]
