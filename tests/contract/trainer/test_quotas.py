# SPDX-License-Identifier: Apache-2.0
"""Limits of projects and principals: each one, the error of what goes beyond it, and what GetLimits says of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from finetree_api.estimator.v1 import estimator_pb2, estimator_pb2_grpc
from finetree_api.trainer.v1 import (
    dataset_pb2,
    event_log_pb2,
    job_pb2,
    limits_pb2,
    retention_pb2,
    serving_pb2,
    trainer_pb2,
)
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.limits import file as limits_file
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from google.type import money_pb2
from trainer_harness import ROWS, FixedEstimator, job_request, jsonl, refusal, server, trainer

CONTENT = jsonl(ROWS)
LONG = {"steps": 3000, "delay": 0.01}
WAIT = 60


@pytest.fixture
def limits(tmp_path):
    """`limits(text)`: the path of a limits file that has the text."""

    def write(text: str) -> Path:
        path = tmp_path / "limits.toml"
        path.write_text(text)
        return path

    return write


async def refused(call):
    """Code, reason and metadata of an error, and the seconds of its RetryInfo, 0 without one."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    code, reason, info, _ = refusal(caught.value)
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(retry)
    return code, reason, dict(info.metadata), retry.retry_delay.ToMilliseconds() / 1000


async def usage(talk, limit, subject="projects/default"):
    found = await talk.stub.GetLimits(limits_pb2.GetLimitsRequest())
    (one,) = [each for each in found.limits if (each.limit, each.subject) == (limit, subject)]
    return one


async def watching(talk, name):
    """A watch that has begun."""
    call = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=name))
    await call.read()
    return call


async def test_requests_a_second(tmp_path, limits):
    file = limits("[default.principal]\nrequests_per_second = 0.01\nburst = 2")
    async with trainer(tmp_path, limits_file=file) as talk:
        ask = trainer_pb2.ListJobsRequest
        await talk.stub.ListJobs(ask())
        await talk.stub.ListJobs(ask())
        code, reason, metadata, delay = await refused(talk.stub.ListJobs(ask()))
    assert (code, reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED")
    assert (metadata["limit"], metadata["subject"]) == ("requests_per_second", "principals/local")
    assert 0 < delay <= 100


async def test_queued_jobs(tmp_path, limits):
    async with trainer(tmp_path, limits_file=limits("[projects.default]\nqueued_jobs = 2")) as talk:
        dataset = (await talk.upload(CONTENT)).name
        made = [await talk.train(dataset=dataset, suspended=True, request_id=str(n)) for n in range(2)]
        code, reason, metadata, delay = await refused(talk.train(dataset=dataset, suspended=True))
        assert (code, reason, delay) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", 30.0)
        assert metadata == {"limit": "queued_jobs", "subject": "projects/default", "value": "2", "used": "2"}
        again = await talk.train(dataset=dataset, suspended=True, request_id="1")
        assert again.name == made[1].name
        assert (await usage(talk, "queued_jobs")).used == 2
        await talk.cancel(made[0].name)
        await talk.train(dataset=dataset, suspended=True)
        other = trainer_pb2.CreateJobRequest(parent="projects/other", job=job_pb2.JobTemplate(suspended=True))
        other.job.prepare.model.path = "tiny"
        await talk.stub.CreateJob(other)


async def test_watchers(tmp_path, limits):
    async with trainer(tmp_path, limits_file=limits("[default.principal]\nwatchers = 1")) as talk:
        job = await talk.train(suspended=True)
        first = await watching(talk, job.name)
        call = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=job.name))
        code, reason, metadata, delay = await refused(call.read())
        assert (code, reason, delay) == ("RESOURCE_EXHAUSTED", "TOO_MANY_WATCHERS", 5.0)
        assert (metadata["limit"], metadata["value"]) == ("watchers", "1")
        assert (await usage(talk, "watchers", "principals/local")).used == 1
        first.cancel()


async def test_uploads_at_once_and_bytes_a_day(tmp_path, limits):
    file = limits(f"[projects.default]\nuploads = 1\nupload_bytes_per_day = {len(CONTENT)}")
    async with trainer(tmp_path, limits_file=file) as talk:
        one = await talk.create_dataset(CONTENT)
        other = await talk.create_dataset(CONTENT + b"\n")
        gate = asyncio.Event()

        async def slowly() -> AsyncIterator[dataset_pb2.WriteDatasetRequest]:
            yield dataset_pb2.WriteDatasetRequest(name=one.name, data=CONTENT[:100])
            await gate.wait()
            yield dataset_pb2.WriteDatasetRequest(name=one.name, offset=100, data=CONTENT[100:])

        first = asyncio.ensure_future(talk.stub.WriteDataset(slowly()))
        async with asyncio.timeout(WAIT):
            while (await usage(talk, "uploads")).used != 1:  # noqa: ASYNC110 - the server counts it
                await asyncio.sleep(0.01)
        code, reason, metadata, _ = await refused(talk.write(other.name, [(0, CONTENT)]))
        assert (code, reason, metadata["limit"]) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "uploads")
        gate.set()
        assert (await first).dataset.committed_bytes == len(CONTENT)
        code, reason, metadata, delay = await refused(talk.write(other.name, [(0, CONTENT)]))
        assert (code, reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        assert (metadata["limit"], metadata["used"]) == ("upload_bytes_per_day", str(len(CONTENT)))
        assert 0 < delay <= 86400
        used = await usage(talk, "upload_bytes_per_day")
        assert (used.used, used.value) == (len(CONTENT), len(CONTENT))
        assert used.reset_time.ToSeconds() % 86400 == 0


async def test_dataset_bytes(tmp_path, limits):
    file = limits(f"[projects.default]\ndataset_bytes = {len(CONTENT)}")
    async with trainer(tmp_path, limits_file=file) as talk:
        await talk.create_dataset(CONTENT)
        code, reason, metadata, delay = await refused(talk.create_dataset(CONTENT + b"\n"))
        assert (code, reason, delay) == ("RESOURCE_EXHAUSTED", "DATASET_TOO_LARGE", 0)
        assert (metadata["limit"], metadata["used"]) == ("dataset_bytes", str(len(CONTENT)))
        await talk.create_dataset(CONTENT)


async def test_generations(tmp_path, limits):
    async with trainer(tmp_path, limits_file=limits("[projects.default]\ngenerations = 0")) as talk:
        job = await talk.train(suspended=True)
        call = talk.stub.Generate(serving_pb2.GenerateRequest(job=job.name, prompt="who?"))
        code, reason, metadata, _ = await refused(call.read())
        assert (code, reason, metadata["limit"]) == ("RESOURCE_EXHAUSTED", "TOO_MANY_GENERATIONS", "generations")


async def test_jobs_beyond_those_that_may_run_wait_and_others_pass_them_by(tmp_path, limits, monkeypatch):
    monkeypatch.setattr(limits_file, "LOOK_SECONDS", 0.05)
    file = limits("[projects.default]\nrunning_jobs = 1")
    async with trainer(tmp_path, LONG, limits_file=file, cpu_slots=3, cpu_threads=1) as talk:
        dataset = (await talk.upload(CONTENT)).name
        first, second = [await talk.train(dataset=dataset) for _ in range(2)]
        other = trainer_pb2.CreateJobRequest(parent="projects/other", job=job_request("", suspended=False))
        other.job.train.spec.dataset.path = "train.jsonl"
        passing = (await talk.stub.CreateJob(other)).job
        await talk.until(first.name, lambda event: event.state == job_pb2.JOB_STATE_RUNNING)
        await talk.until(passing.name, lambda event: event.state == job_pb2.JOB_STATE_RUNNING)
        held = await talk.until(second.name, lambda event: event.queue_changed.code == "WAITING_FOR_QUOTA")
        assert held[-1].state == job_pb2.JOB_STATE_QUEUED
        waiting = await talk.job(second.name)
        assert "projects/default may have 1 running jobs" in waiting.blocked_by
        assert (await usage(talk, "running_jobs")).used == 1
        limits("[projects.default]\nrunning_jobs = 22")
        await talk.until(second.name, lambda event: event.state == job_pb2.JOB_STATE_RUNNING)


async def test_money_of_a_month(tmp_path, limits):
    async with trainer(tmp_path, limits_file=limits('[projects.default]\nmonthly_cost = "0.25 EUR"')) as talk:
        dataset = (await talk.upload(CONTENT)).name
        first, _ = [await talk.train(dataset=dataset, suspended=True) for _ in range(2)]
        code, reason, metadata, delay = await refused(talk.train(dataset=dataset, suspended=True))
        assert (code, reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        assert metadata == {
            "limit": "monthly_cost",
            "subject": "projects/default",
            "value": "0.25 EUR",
            "used": "0.20 EUR",
        }
        assert 0 < delay <= 31 * 86400
        cheap = job_pb2.JobLimits(max_cost=money_pb2.Money(currency_code="EUR", nanos=50_000_000))
        await talk.train(dataset=dataset, suspended=True, limits=cheap)
        used = await usage(talk, "monthly_cost")
        assert (round(used.used, 6), used.value, used.currency_code) == (0.25, 0.25, "EUR")
        assert used.reset_time.ToSeconds() > time.time()
        await talk.cancel(first.name)
        assert round((await usage(talk, "monthly_cost")).used, 6) == 0.15
        await talk.train(dataset=dataset, suspended=True)


async def test_what_a_deleted_job_has_cost_stays_spent(tmp_path, limits):
    script = {"steps": 3, "cost": 0.05}
    async with trainer(tmp_path, script, limits_file=limits('[projects.default]\nmonthly_cost = "0.3 EUR"')) as talk:
        job = await talk.train()
        await talk.events(job.name)
        spent = (await talk.job(job.name)).cost.amount
        assert spent.nanos
        await talk.stub.DeleteJob(retention_pb2.DeleteJobRequest(name=job.name, request_id="gone"))
        assert round((await usage(talk, "monthly_cost")).used, 6) == round(spent.nanos / 1e9, 6)


@pytest.mark.parametrize(("word", "code"), [("refuse", "FAILED_PRECONDITION"), ("allow", "")])
async def test_a_training_whose_price_is_in_another_currency(tmp_path, limits, word, code):
    file = limits(f'[projects.default]\nmonthly_cost = "9 USD"\nunpriced_trainings = "{word}"')
    async with trainer(tmp_path, limits_file=file) as talk:
        free = job_pb2.JobTemplate(suspended=True)
        free.prepare.model.path = "tiny"
        await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=free))
        if code:
            assert (await refused(talk.train(suspended=True)))[:2] == (code, "COST_UNKNOWN")
        else:
            await talk.train(suspended=True)
        assert (await usage(talk, "monthly_cost")).unpriced_jobs == (1 if code else 2)


async def test_two_hundred_creations_at_once_fill_ten_places(tmp_path, limits):
    settings = {"max_waiting_calls": 400, "max_running_calls": 64}
    async with trainer(tmp_path, limits_file=limits("[projects.default]\nqueued_jobs = 10"), **settings) as talk:
        dataset = (await talk.upload(CONTENT)).name
        calls = [talk.train(dataset=dataset, suspended=True) for _ in range(200)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        made = [each for each in done if isinstance(each, job_pb2.Job)]
        reasons = {refusal(each)[1] for each in done if isinstance(each, grpc.aio.AioRpcError)}
        assert (len(made), reasons) == (10, {"QUEUE_FULL"})
        assert len((await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs) == 10


class Priced(estimator_pb2_grpc.EstimatorServiceServicer):
    """Estimates every run at the same price, for a trainer in a process of its own."""

    async def EstimateRun(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - gRPC's signature
        return estimator_pb2.EstimateRunResponse(estimate=await FixedEstimator().estimate(request))


@contextlib.asynccontextmanager
async def priced() -> AsyncIterator[str]:
    """Address of an estimator that knows prices."""
    served = grpc.aio.server()
    estimator_pb2_grpc.add_EstimatorServiceServicer_to_server(Priced(), served)
    port = served.add_insecure_port("127.0.0.1:0")
    await served.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await served.stop(0)


async def test_a_kill_keeps_the_month_and_the_day(tmp_path, limits):
    file = limits('[projects.default]\nmonthly_cost = "100 EUR"')
    async with (
        priced() as address,
        server(tmp_path, LONG | {"cost": 0.001}, limits_file=file, estimator_address=address) as (running, before),
    ):
        job = await before.train()
        await before.until(job.name, lambda event: event.step_metrics.step > 3)
        await running.kill()
        talk = await running.start()
        assert (await usage(talk, "upload_bytes_per_day")).used == len(CONTENT)
        await talk.cancel(job.name)
        await talk.events(job.name)
        spent = json_format.MessageToDict((await talk.job(job.name)).cost.amount)
        used = await usage(talk, "monthly_cost")
        assert round(used.used, 6) == round(float(spent.get("units", 0)) + spent["nanos"] / 1e9, 6) > 0


async def test_a_wrong_file_prevents_the_start(tmp_path, limits):
    with pytest.raises(SettingsError, match=r"projects\.a\.runing_jobs"):
        async with trainer(tmp_path, limits_file=limits("[projects.a]\nruning_jobs = 1")):
            pass
