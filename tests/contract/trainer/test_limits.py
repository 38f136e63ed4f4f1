# SPDX-License-Identifier: Apache-2.0
"""Limits of a job: which one ends it, what is published then, and how often it saves."""

import time

import pytest
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import check_pb2, training_pb2
from google.protobuf.duration_pb2 import Duration
from google.type import money_pb2
from trainer_harness import ROWS, assert_whole, job_request, jsonl, server, states, trainer, trainer_pb2

LONG = {"steps": 3000, "delay": 0.01, "artifact": True, "cost": 0.001}


async def artifacts(talk, name):
    found = await talk.stub.ListArtifacts(artifact_pb2.ListArtifactsRequest(parent=name))
    return [artifact.name.rpartition("/")[2] for artifact in found.artifacts]


def euros(amount):
    return money_pb2.Money(currency_code="EUR", nanos=round(amount * 1e9))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"limits": job_pb2.JobLimits(max_duration=Duration(seconds=1))}, "MAX_DURATION_REACHED"),
        ({"limits": job_pb2.JobLimits(max_cost=euros(0.02))}, "MAX_COST_REACHED"),
        ({"deadline": 1.0}, "DEADLINE_REACHED"),
    ],
    ids=["duration", "cost", "deadline"],
)
async def test_each_limit_ends_a_training_with_an_artifact_and_its_name(tmp_path, fields, code):
    async with trainer(tmp_path, LONG, checkpoint_grace=20.0) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        template = job_request(dataset)
        if "deadline" in fields:
            template.deadline.FromNanoseconds(time.time_ns() + 3_000_000_000)
        else:
            template.limits.MergeFrom(fields["limits"])
        name = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=template))).job.name
        events = await talk.events(name, 30)
        assert_whole(events)
        assert states(events)[-3:] == ["RUNNING", "CANCELLING", "CANCELLED"]
        job = await talk.job(name)
        assert job.state_reason.code == code
        assert "published" in job.state_reason.text
        assert "download" in job.state_reason.remedy
        assert job_pb2.JOB_ACTION_DOWNLOAD in job.allowed_actions
        assert await artifacts(talk, name) == ["adapter"]
        told = next(e.state_changed.reason.code for e in events if e.state == job_pb2.JOB_STATE_CANCELLING)
        assert told == code


async def test_a_limit_is_kept_over_a_restart_and_a_worker_that_obeys_nothing_leaves_its_reason(tmp_path):
    limits = job_pb2.JobLimits(max_duration=Duration(seconds=1))
    async with server(tmp_path, LONG | {"deaf": True}, checkpoint_grace=1.0) as (running, before):
        name = (await before.train(limits=limits)).name
        await before.until(name, lambda event: event.state == job_pb2.JOB_STATE_CANCELLING, 30)
        await running.kill()
        talk = await running.start()
        events = await talk.events(name, 30)
        assert_whole(events)
        assert (await talk.job(name)).state_reason.code == "MAX_DURATION_REACHED"
        assert await artifacts(talk, name) == []


async def test_a_job_that_waits_or_is_paused_ends_at_its_deadline_at_once(tmp_path):
    async with trainer(tmp_path, LONG) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        template = job_request(dataset)
        template.deadline.FromNanoseconds(time.time_ns() + 2_500_000_000)
        name = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=template))).job.name
        await talk.until(name, lambda event: event.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        await talk.pause(name)
        events = await talk.events(name, 30)
        assert_whole(events)
        assert (await talk.job(name)).state_reason.code == "DEADLINE_REACHED"


async def test_what_may_be_lost_follows_from_the_estimate_the_price_or_the_request(tmp_path):
    async with trainer(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name

        async def resolved(**limits) -> float:  # noqa: ANN003 - fields of JobLimits
            given = job_pb2.JobLimits(**limits)
            job = await talk.train(dataset=dataset, suspended=True, limits=given)
            return job.limits.max_lost_time.ToNanoseconds() / 1e9

        assert await resolved() == 60  # a twentieth of the estimate's minute is less than the least
        assert await resolved(max_lost_time=Duration(seconds=7)) == 7
        # The estimate is 0.1 EUR for 60 s: 6 EUR an hour.
        assert await resolved(max_lost_cost=euros(0.05)) == pytest.approx(30)
        assert await resolved(max_lost_cost=euros(0.05), max_lost_time=Duration(seconds=40)) == pytest.approx(30)
        task = job_pb2.TrainTask()
        task.spec.checkpoints.MergeFrom(training_pb2.Checkpoints(every_steps=5))
        # A client that copies a recommendation's sources says so of a value that it has changed, too.
        copied = check_pb2.SettingSource(
            field_path="checkpoints.every_steps", rule_id="default.checkpoints.every_steps"
        )
        for sources in ([], [copied]):
            del task.setting_sources[:]
            task.setting_sources.extend(sources)
            request = trainer_pb2.CreateJobRequest(job=job_request(dataset, task=task, suspended=True))
            job = (await talk.stub.CreateJob(request)).job
            assert not job.limits.HasField("max_lost_time")
            assert job.train.spec.checkpoints.every_steps == 5
