# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - a folder that goes sets no event
"""kill -9 in the middle of deletions and of changes to what is kept: whole or gone, and a repeat is answered."""

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from campaign.campaign import OF_DELETION, Service, broken_off
from finetree_api.trainer.v1 import checkpoint_pb2, job_pb2, retention_pb2
from trainer_harness import ROWS, Talker, assert_whole, jsonl, refusal, write_script

pytestmark = [pytest.mark.slow(20), pytest.mark.timeout(300)]
SCRIPT = {"steps": 6, "checkpoints": [2, 4, 6]}
DeleteJob, DeleteCheckpoint = retention_pb2.DeleteJobRequest, checkpoint_pb2.DeleteCheckpointRequest
Update = checkpoint_pb2.UpdateCheckpointRequest


@pytest.fixture
async def killed(tmp_path, preloaded):
    """Send a request to a service that dies at a point; give what talks to the next one."""
    command = write_script(tmp_path, SCRIPT)
    service = Service(tmp_path, preloaded("trainer").wait(), SimpleNamespace(command=command))
    write_script(tmp_path, SCRIPT)

    async def kill(point: str, method: str, request) -> Talker:
        if service.pid:
            await service.kill()
        assert await service.start(point)
        if method:
            with broken_off():
                await getattr(service.talk.stub, method)(request)
            assert await service.death(20), f"{point} is not reached"
            await service.gone()
            service.pid = 0
            assert await service.start()
        return service.talk

    yield kill
    if service.pid:
        await service.kill()


async def ended(talk, **fields):  # noqa: ANN003 - fields of the template
    job = await talk.train(**fields)
    await talk.events(job.name)
    return job


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)[:2]


async def test_a_deleted_job_is_whole_or_gone_and_the_request_is_answered_again(killed, tmp_path):
    points = [name for name in OF_DELETION if name.startswith("deletion.")]
    talk = await killed("", "", None)
    dataset = (await talk.upload(jsonl(ROWS))).name
    for point in points:
        cancelled = point == "deletion.after_end"
        job = await talk.train(dataset=dataset, suspended=True) if cancelled else await ended(talk, dataset=dataset)
        request = DeleteJob(name=job.name, request_id=point, force=cancelled)
        folder = tmp_path / "data/jobs" / job.uid
        size = (await talk.stub.DeleteJob(DeleteJob(name=job.name, force=cancelled, validate_only=True))).freed_bytes
        talk = await killed(point, "DeleteJob", request)
        if cancelled:
            events = await talk.events(job.name)
            assert_whole(events)
            assert events[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED
        else:
            assert await refused(talk.job(job.name)) == ("NOT_FOUND", "JOB_NOT_FOUND")
            async with asyncio.timeout(60):
                while folder.exists():
                    await asyncio.sleep(0.02)
        for _ in range(2):
            assert (await talk.stub.DeleteJob(request)).freed_bytes == size
        other = DeleteJob(name=job.name, request_id=point, force=not cancelled)
        assert await refused(talk.stub.DeleteJob(other)) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        assert await refused(talk.job(job.name)) == ("NOT_FOUND", "JOB_NOT_FOUND")
        assert not folder.exists()


async def test_a_change_of_a_checkpoint_is_made_once_and_its_request_answered_again(killed):
    talk = await killed("", "", None)
    job = await ended(talk)

    async def steps(talk) -> dict[int, checkpoint_pb2.Checkpoint]:
        listed = checkpoint_pb2.ListCheckpointsRequest(parent=job.name)
        return {each.step: each for each in (await talk.stub.ListCheckpoints(listed)).checkpoints}

    whole = await steps(talk)
    six, four = (f"{job.name}/checkpoints/{step}" for step in (6, 4))
    pin = Update(name=six, pinned=True, request_id="pin")
    talk = await killed("keeping.after_change", "UpdateCheckpoint", pin)
    assert (await steps(talk))[6].pinned
    # Asked again after another change: what was answered for stays as it is by now.
    await talk.stub.UpdateCheckpoint(Update(name=six, pinned=False))
    for _ in range(2):
        assert not (await talk.stub.UpdateCheckpoint(pin)).checkpoint.pinned
    removal = DeleteCheckpoint(name=four, request_id="remove")
    talk = await killed("keeping.before_removal", "DeleteCheckpoint", removal)
    assert (await steps(talk))[4] == whole[4]
    talk = await killed("keeping.after_removal", "DeleteCheckpoint", removal)
    assert list(await steps(talk)) == [6]
    reused = DeleteCheckpoint(name=six, request_id="remove")
    for _ in range(2):
        assert (await talk.stub.DeleteCheckpoint(removal)).freed_bytes >= whole[4].size_bytes
        assert await refused(talk.stub.DeleteCheckpoint(reused)) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert list(await steps(talk)) == [6]


def test_every_place_of_a_deletion_has_its_kill():
    deletion = {"deletion.after_end", "deletion.after_commit", "deletion.before_note"}
    assert set(OF_DELETION) == deletion | {"keeping.after_change", "keeping.before_removal", "keeping.after_removal"}
