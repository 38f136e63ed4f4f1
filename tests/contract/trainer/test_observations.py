# SPDX-License-Identifier: Apache-2.0
"""What a run measured reaches the estimator: once, in the background, and also after a restart."""

import asyncio

import pytest
from finetree_api.trainer.v1 import job_pb2, trainer_pb2
from finetree_trainer.estimator import EstimateUnavailableError, ReportRefusedError
from finetree_trainer.jobs import observations
from trainer_harness import ROWS, FixedEstimator, job_request, jsonl, trainer

SUMMARY = {
    "steps": 40,
    "median_step_seconds": 0.5,
    "total_seconds": 31.0,
    "peak_memory_bytes": 3 * 2**30,
}
SCRIPT = {"steps": 2, "report": 400, "summary": SUMMARY}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Tries follow each other at once."""
    monkeypatch.setattr(observations, "FIRST_DELAY_SECONDS", 0.02)
    monkeypatch.setattr(observations, "LONGEST_DELAY_SECONDS", 0.1)


async def arrival(estimator: FixedEstimator):
    return await asyncio.wait_for(estimator.reported.get(), 60)


async def tried(estimator: FixedEstimator, times: int = 1) -> None:
    async with asyncio.timeout(60):
        while estimator.tries < times:  # noqa: ASYNC110 - the trainer's own task counts
            await asyncio.sleep(0.01)


async def test_what_a_run_measured_is_reported_with_the_rows_that_it_really_saw(tmp_path):
    estimator = FixedEstimator()
    async with trainer(tmp_path, SCRIPT, estimator) as talk:
        job = await talk.train()
        seen = await arrival(estimator)
        done = await talk.job(job.name)

    assert (seen.job, seen.attempt, seen.steps) == (job.name, 1, 40)
    assert (seen.step_seconds, seen.total_seconds) == (0.5, 31.0)
    assert seen.device_bytes == 3 * 2**30
    assert not seen.HasField("reserved_bytes")
    assert seen.run.spec == done.train.spec
    assert (seen.run.dataset_profile.total_tokens, seen.run.dataset_profile.exact) == (400, True)
    assert seen.end_time == done.end_time


@pytest.mark.parametrize("script", [SCRIPT | {"outcome": "failed"}, {"steps": 2}], ids=["failed", "measured nothing"])
async def test_a_run_that_says_nothing_of_the_device_is_not_reported(tmp_path, script):
    estimator = FixedEstimator()
    async with trainer(tmp_path, script, estimator) as talk:
        job = await talk.train()
        await talk.events(job.name)
    assert estimator.tries == 0


async def test_a_down_estimator_is_told_later_and_holds_up_no_job(tmp_path):
    estimator = FixedEstimator()
    estimator.failure = EstimateUnavailableError("down")
    async with trainer(tmp_path, SCRIPT, estimator) as talk:
        job = await talk.train()
        await talk.events(job.name)
        assert (await talk.job(job.name)).state == job_pb2.JOB_STATE_SUCCEEDED
        await tried(estimator, 3)
        estimator.failure = None
        assert (await arrival(estimator)).job == job.name


async def test_what_was_not_told_before_a_restart_is_told_after_it(tmp_path):
    before, after = FixedEstimator(), FixedEstimator()
    before.failure = EstimateUnavailableError("down")
    async with trainer(tmp_path, SCRIPT, before) as talk:
        job = await talk.train()
        await talk.events(job.name)
        await tried(before)
    async with trainer(tmp_path, SCRIPT, after):
        assert (await arrival(after)).job == job.name
    assert after.tries == 1


async def test_a_refused_report_is_not_repeated(tmp_path):
    estimator, later = FixedEstimator(), FixedEstimator()
    estimator.failure = ReportRefusedError("OBSERVATION_IMPLAUSIBLE")
    async with trainer(tmp_path, SCRIPT, estimator) as talk:
        first = await talk.train(request_id="1")
        await talk.events(first.name)
        await tried(estimator)
        estimator.failure = None
        second = await talk.train(request_id="2")
        assert (await arrival(estimator)).job == second.name
        assert estimator.tries == 2
    async with trainer(tmp_path, SCRIPT, later) as talk:
        third = await talk.train(request_id="3")
        told = [(await arrival(later)).job]
        # The trainer may have stopped before it noted that the second was taken, and then tells it once more.
        if told[0] == second.name:
            told.append((await arrival(later)).job)
        assert told[-1] == third.name
    assert first.name not in told
    assert later.tries == len(told)


async def test_an_old_run_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(observations, "GIVE_UP_SECONDS", 0.0)
    estimator = FixedEstimator()
    estimator.failure = EstimateUnavailableError("down")
    async with trainer(tmp_path, SCRIPT, estimator) as talk:
        first = await talk.train(request_id="1")
        await talk.events(first.name)
        await tried(estimator)
        estimator.failure = None
        second = await talk.train(request_id="2")
        assert (await arrival(estimator)).job == second.name
        assert estimator.tries == 2


async def test_the_report_travels_to_a_real_address(tmp_path):
    from finetree.testing import Suite
    from finetree_trainer.estimator import RemoteEstimator

    with Suite() as suite:
        estimator = RemoteEstimator(suite.address)
        async with trainer(tmp_path, SCRIPT, estimator) as talk:
            talk.put_model("meta-llama/Llama-3.2-1B", "1" * 40)
            request = job_request((await talk.upload(jsonl(ROWS))).name)
            request.train.spec.model.name = "llama-3.2-1b"
            job = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job
            await talk.events(job.name)
            async with asyncio.timeout(60):
                while not suite.estimator.observations:  # noqa: ASYNC110 - another thread takes it
                    await asyncio.sleep(0.01)
        assert list(suite.estimator.observations) == [(job.name, 1)]
        await estimator.close()
