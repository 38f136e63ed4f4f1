# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN002, ANN003 - a mask's paths, and fields of a protobuf message
"""UpdateJob: what the mask names is changed, once, in any state; a request that is refused changes nothing."""

import asyncio

import grpc
import pytest
from finetree_api.trainer.v1 import event_pb2, trainer_pb2, trainer_pb2_grpc
from finetree_runtime.server.access import changes
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted
from google.protobuf.field_mask_pb2 import FieldMask
from trainer_harness import ROWS, Talker, assert_whole, bearer_channel, jsonl, refusal, trainer

Update = trainer_pb2.UpdateJobRequest


def known_as(job):
    """What UpdateJob can change, and what it never does. A job that waits may get events meanwhile."""
    return dict(job.labels), dict(job.annotations), job.display_name, job.train, job.state, job.create_time


async def update(talk, name, *paths, **fields):
    mask = FieldMask(paths=paths) if paths else None
    return (await talk.stub.UpdateJob(Update(name=name, update_mask=mask, **fields))).job


async def test_what_the_mask_names_is_changed_and_nothing_else(tmp_path, serve):
    async with serve(tmp_path) as talk:
        given = {"labels": {"team": "search", "trial": "1"}, "annotations": {"note": "first"}, "display_name": "one"}
        before = await talk.train(suspended=True, **given)
        name = before.name
        job = await update(talk, name, "labels.trial", "labels.a/b.c", "annotations.none", labels={"a/b.c": ""})
        assert dict(job.labels) == {"team": "search", "a/b.c": ""}
        assert (job.display_name, dict(job.annotations)) == ("one", {"note": "first"})
        job = await update(talk, name, labels={"team": "ads"})
        assert (dict(job.labels), job.display_name) == ({"team": "ads"}, "one")
        job = await update(talk, name, "annotations", "display_name")
        assert (dict(job.labels), dict(job.annotations), job.display_name) == ({"team": "ads"}, {}, "")
        assert (await update(talk, name, display_name="two")).display_name == "two"
        job = await update(talk, name, "labels", "labels.team", labels={"only": "this"})
        assert dict(job.labels) == {"only": "this"}
        kept = await talk.job(name)
        assert known_as(kept) == known_as(job)
        assert (kept.train, kept.state) == (before.train, before.state)
        assert kept.update_time.ToMicroseconds() >= before.update_time.ToMicroseconds()
        assert known_as(await update(talk, name)) == known_as(kept)
        for labels, found in (({"only": "this"}, [name]), ({"team": "ads"}, [])):
            listed = await talk.stub.ListJobs(trainer_pb2.ListJobsRequest(labels=labels))
            assert [job.name for job in listed.jobs] == found


async def test_a_job_that_has_ended_is_labelled_too_and_its_log_stays(tmp_path, serve):
    async with serve(tmp_path) as talk:
        name = (await talk.train()).name
        events = await talk.events(name)
        job = await update(talk, name, "labels.best", labels={"best": "yes"})
        assert dict(job.labels) == {"best": "yes"}
        assert job.end_time.ToMicroseconds() == events[-1].event_time.ToMicroseconds()
        assert await talk.events(name) == events


async def test_a_job_is_labelled_while_it_runs(tmp_path):
    async with trainer(tmp_path, {"steps": 30, "delay": 0.01}) as talk:
        name = (await talk.train()).name
        await talk.until(name, lambda event: event.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        made = [update(talk, name, f"labels.n{n}", labels={f"n{n}": str(n)}) for n in range(20)]
        await asyncio.gather(*made)
        assert_whole(await talk.events(name))
        assert dict((await talk.job(name)).labels) == {f"n{n}": str(n) for n in range(20)}


async def test_the_same_request_changes_a_job_once(tmp_path, serve):
    async with serve(tmp_path) as talk:
        name = (await talk.train(suspended=True)).name
        await update(talk, name, labels={"a": "1"}, request_id="once")
        await update(talk, name, labels={"a": "2"})
        again = await update(talk, name, labels={"a": "1"}, request_id="once")
        assert dict(again.labels) == {"a": "2"}
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await update(talk, name, labels={"a": "3"}, request_id="once")
        assert refusal(error.value)[:2] == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_a_request_that_is_refused_changes_nothing(tmp_path, serve):
    async with serve(tmp_path) as talk:
        full = {f"k{n}": "v" for n in range(64)}
        dataset = (await talk.upload(jsonl(ROWS))).name
        job = await talk.train(dataset=dataset, suspended=True, labels=full, display_name="one")
        refused = [
            (Update(update_mask=FieldMask(paths=["labels.more"]), labels={"more": "v"}), "labels"),
            (Update(update_mask=FieldMask(paths=["display_name"]), labels={"k1": "w"}), 'labels["k1"]'),
            (Update(update_mask=FieldMask(paths=["labels.k1"]), display_name="two"), "display_name"),
            (Update(update_mask=FieldMask(paths=["labels.k1", "state"]), labels={"k1": "w"}), "update_mask"),
            (Update(update_mask=FieldMask(paths=["labels._k"])), "update_mask"),
            (Update(update_mask=FieldMask(paths=[f"labels.k{n}" for n in range(257)])), "update_mask"),
            (Update(labels={"": "v"}), 'labels[""]'),
            (Update(annotations={"a": "v" * 4097}), 'annotations["a"]'),
            (Update(display_name="x" * 257), "display_name"),
        ]
        for request, field in refused:
            request.name = job.name
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await talk.stub.UpdateJob(request)
            code, reason, _, violations = refusal(error.value)
            assert (code, reason, violations[0].field) == ("INVALID_ARGUMENT", "INVALID_REQUEST", field)
        assert known_as(await talk.job(job.name)) == known_as(job)
        gone = job.name[:-4] + "0000"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await update(talk, gone, labels={"a": "b"})
        assert refusal(error.value)[:2] == ("NOT_FOUND", "JOB_NOT_FOUND")


async def test_a_request_that_changes_nothing_tells_whether_one_may_change_the_job(tmp_path):
    access = tmp_path / "access"
    trains, reads = (
        changes.create_token(access, role.name, Granted("p", Grants({"p": role})), expires=None)[1]
        for role in (Role.TRAIN, Role.READ)
    )
    async with (
        trainer(tmp_path, {"steps": 2}, access_dir=access) as nobody,
        bearer_channel(nobody.address, trains) as channel,
        bearer_channel(nobody.address, reads) as readers,
    ):
        talk = Talker(trainer_pb2_grpc.TrainerServiceStub(channel), channel=channel)
        reader = Talker(trainer_pb2_grpc.TrainerServiceStub(readers), channel=readers)
        before = await talk.train(suspended=True, labels={"team": "search"})
        assert (await update(talk, before.name)).name == before.name
        assert known_as(await reader.job(before.name)) == known_as(before)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await update(reader, before.name)
        assert refusal(error.value)[:2] == ("PERMISSION_DENIED", "ROLE_MISSING")
