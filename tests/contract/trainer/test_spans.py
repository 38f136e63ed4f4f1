# SPDX-License-Identifier: Apache-2.0
"""The spans of a job at a collector: from its creation to its steps, through outages and restarts."""

import asyncio

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2
from finetree_trainer.telemetry import span_export
from trainer_harness import ROWS, job_request, jsonl, trainer

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(span_export, "ROUND_SECONDS", 0.05)


async def test_a_job_is_in_the_trace_of_whoever_created_it(tmp_path, collector, otlp):
    async with trainer(tmp_path, {"steps": 3, "checkpoints": [2]}) as one:
        job = await one.train(trace_context=CALLER)
        await one.events(job.name)
        spans = await job_spans(collector)
    by_name = {span.name: span for span in spans}
    assert {"waiting", "attempt", "load_model", "tokenize", "train", "steps", "checkpoint", "job train"} <= set(by_name)
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    ids = {span.span_id: span.name for span in spans}
    parents = {span.name: ids.get(span.parent_span_id) for span in spans}
    assert parents["steps"] == parents["checkpoint"] == "train"
    assert parents["train"] == parents["load_model"] == "attempt"
    assert parents["attempt"] == "job train"
    assert by_name["job train"].parent_span_id.hex() == SPAN
    found = otlp.attributes(by_name["job train"])
    assert found == {
        "finetree.job": job.name,
        "finetree.task": "train",
        "finetree.method": "lora",
        "finetree.state": "succeeded",
        "finetree.attempts": 1,
    }
    assert otlp.attributes(by_name["steps"])["finetree.last_step"] == 3
    assert "finetree-trainer" in collector.services


async def test_a_job_takes_the_trace_of_its_call_unless_it_names_one(tmp_path):
    other = f"00-{TRACE[::-1]}-{SPAN}-00"
    async with trainer(tmp_path, {"steps": 1}) as one:
        dataset = (await one.upload(jsonl(ROWS))).name

        async def created(traceparent: str, trace_context: str = "", request_id: str = "") -> job_pb2.Job:
            template = job_request(dataset, "tiny", trace_context=trace_context)
            request = trainer_pb2.CreateJobRequest(job=template, request_id=request_id)
            return (await one.stub.CreateJob(request, metadata=(("traceparent", traceparent),))).job

        assert (await created(CALLER)).trace_context == CALLER
        assert (await created(CALLER, other)).trace_context == other
        for wrong in ("", "no trace", f"00-{'0' * 32}-{SPAN}-01"):
            assert (await created(wrong)).trace_context == ""
        # A repeated request is another span, and the same job.
        first, again = await created(CALLER, request_id="r-1"), await created(other, request_id="r-1")
        assert (again.name, again.trace_context) == (first.name, CALLER)


async def test_spans_wait_for_a_collector_that_is_down_and_survive_a_restart(tmp_path, collector):
    script = {"steps": 30, "delay": 0.05}
    collector.down = True
    async with trainer(tmp_path, script) as one:
        job = await one.train(trace_context=CALLER)
        await one.until(job.name, lambda event: event.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        await until(lambda: collector.refused > 0)
    assert collector.spans == []
    collector.down = False
    async with trainer(tmp_path, script) as one:
        await one.events(job.name)
        spans = await job_spans(collector)
        # What was kept of the job goes once its last span has arrived.
        async with asyncio.timeout(60):
            while await one.application._store.read(kept):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.02)
    assert sorted({span.name for span in spans}) == sorted(
        {"waiting", "attempt", "load_model", "tokenize", "train", "steps", "job train"}
    )
    assert len({span.span_id for span in spans}) == len(spans), "a span came twice"


def kept(connection):
    return list(connection.exec_driver_sql("SELECT key FROM meta WHERE key LIKE 'spans/%'"))


async def job_spans(collector):
    await until(lambda: any(span.name == "job train" for span in collector.spans))
    return [span for span in collector.spans if "/" not in span.name]


async def until(condition, seconds=60.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for comes over the network
            await asyncio.sleep(0.02)
