# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - fields of a RetryPolicy
"""The retry policy of a job: what is tried again, how often, and when; also over a restart."""

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from google.protobuf.duration_pb2 import Duration
from trainer_harness import assert_whole, server, states, steps, trainer, write_script, write_whole_script

SYSTEM, CAPACITY, USER = (
    job_pb2.FAILURE_CATEGORY_SYSTEM,
    job_pb2.FAILURE_CATEGORY_CAPACITY,
    job_pb2.FAILURE_CATEGORY_USER,
)
FAILS = {"outcome": "failed", "steps": 2}


def policy(**fields) -> job_pb2.RetryPolicy:
    return job_pb2.RetryPolicy(**fields)


async def test_a_policy_is_resolved_and_a_job_without_one_fails_at_once(tmp_path):
    async with trainer(tmp_path, FAILS | {"category": SYSTEM}) as talk:
        job = await talk.train(suspended=True, retry_policy=policy())
        found = job.retry_policy
        assert (found.max_attempts, list(found.categories), found.backoff_factor) == (3, [SYSTEM], 2.0)
        assert (found.max_backoff.seconds, found.HasField("initial_backoff")) == (3600, False)
        job = await talk.train(request_id="none")
        assert not job.HasField("retry_policy")
        events = await talk.events(job.name, 30)
        assert (events[-1].attempt, events[-1].terminal.state) == (1, job_pb2.JOB_STATE_FAILED)


@pytest.mark.parametrize(
    ("category", "given", "attempts"),
    [
        (SYSTEM, policy(max_attempts=2), 2),
        (CAPACITY, policy(max_attempts=2, categories=[CAPACITY]), 2),
        (CAPACITY, policy(max_attempts=2), 1),
        (USER, policy(max_attempts=9, categories=[SYSTEM, CAPACITY]), 1),
    ],
    ids=["system", "capacity", "another category", "never the user's"],
)
async def test_reported_failures_are_tried_again_by_their_category(tmp_path, category, given, attempts):
    async with trainer(tmp_path, FAILS | {"category": category}) as talk:
        name = (await talk.train(retry_policy=given)).name
        events = await talk.events(name, 30)
        assert_whole(events)
        assert (events[-1].attempt, events[-1].terminal.state) == (attempts, job_pb2.JOB_STATE_FAILED)
        assert events[-1].terminal.failure_category == category
        assert states(events).count("RECOVERING") == attempts - 1


async def test_lost_workers_and_reported_failures_count_together(tmp_path):
    script = FAILS | {"category": SYSTEM, "kill_at": {"2": 1}, "failing_attempts": 1}
    async with trainer(tmp_path, script) as talk:
        name = (await talk.train(retry_policy=policy(max_attempts=3))).name
        events = await talk.events(name, 30)
        assert_whole(events)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        assert steps(events)[-1] == (3, 2)
        told = [e.state_changed.reason for e in events if e.state_changed.current == job_pb2.JOB_STATE_RECOVERING]
        assert [reason.code for reason in told] == ["DIVERGED", "WORKER_LOST"]
        assert "failure 2 of 3" in told[1].text


@pytest.mark.parametrize("given", [None, policy(max_attempts=3)], ids=["no policy", "a policy"])
async def test_a_lost_rank_is_tried_again_as_a_lost_worker_is(tmp_path, given):
    script = FAILS | {"category": SYSTEM, "reason": "RANK_LOST", "failing_attempts": 1}
    async with trainer(tmp_path, script) as talk:
        name = (await talk.train(**({"retry_policy": given} if given else {}))).name
        events = await talk.events(name, 30)
        assert_whole(events)
        assert (events[-1].attempt, events[-1].terminal.state) == (2, job_pb2.JOB_STATE_SUCCEEDED)
        (told,) = [e.state_changed.reason for e in events if e.state_changed.current == job_pb2.JOB_STATE_RECOVERING]
        assert told.code == "RANK_LOST"
        assert told.text.startswith("Attempt 1 failed: ")


async def test_a_rank_that_is_lost_in_every_attempt_fails_its_job(tmp_path):
    script = FAILS | {"category": SYSTEM, "reason": "RANK_LOST"}
    async with trainer(tmp_path, script) as talk:
        events = await talk.events((await talk.train()).name, 40)
        assert_whole(events)
        assert states(events).count("RECOVERING") == events[-1].attempt - 1 > 0
        assert events[-1].terminal.retryable
        assert "Attempt" in events[-1].terminal.error.message


async def test_the_next_attempt_waits_for_its_time_also_after_a_restart(tmp_path):
    script = FAILS | {"category": SYSTEM, "failing_attempts": 1}
    async with server(tmp_path, script) as (running, before):
        given = policy(initial_backoff=Duration(seconds=6))
        name = (await before.train(retry_policy=given)).name
        await before.until(name, lambda event: event.state == job_pb2.JOB_STATE_RECOVERING)
        job = await before.job(name)
        due = job.state_reason.next_attempt_time.ToMicroseconds()
        assert "its next attempt begins at" in job.blocked_by
        await running.kill()
        write_script(tmp_path, {"steps": 1})
        talk = await running.start()
        events = await talk.events(name)
        assert_whole(events)
        waited = next(e.state_changed.reason for e in events if e.state_changed.current == job_pb2.JOB_STATE_RECOVERING)
        assert waited.next_attempt_time.ToMicroseconds() == due
        second = next(event for event in events if event.attempt == 2)
        assert second.event_time.ToMicroseconds() >= due
        assert second.kind == event_pb2.EVENT_KIND_STATE_CHANGED


@pytest.mark.parametrize("given", [None, policy(max_attempts=3, categories=[SYSTEM, CAPACITY])], ids=["none", "policy"])
async def test_a_worker_that_the_kernel_ends_while_it_tokenizes_is_no_lost_one(tmp_path, given):
    command = write_whole_script(tmp_path, {"steps": 3, "kill_at": {"1": 2}, "kill_by": "SIGXCPU"})
    async with trainer(tmp_path, worker_command=command) as talk:
        job = await talk.train(retry_policy=given)
        events = await talk.events(job.name, 30)
        assert_whole(events)
        terminal = events[-1].terminal
        assert (events[-1].attempt, terminal.state) == (1, job_pb2.JOB_STATE_FAILED)
        assert (terminal.failure_category, terminal.retryable) == (USER, False)
        reason = (await talk.job(job.name)).state_reason
        assert reason.code == "TOKENIZATION_LIMIT"
        assert "ended by SIGXCPU" in reason.text
        assert "chat template" in reason.remedy
