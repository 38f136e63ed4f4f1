# SPDX-License-Identifier: Apache-2.0
"""A batch answers each row as the row would be answered alone, and no call holds the event loop."""

import asyncio
import threading

import pytest
from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2, estimator_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import DomainError, to_status
from finetree_runtime.server import validation
from google.protobuf import json_format

KNOWLEDGE = Knowledge(price_book.packaged())
RTX = {"accelerator": "rtx-4090"}
LORA = {"spec": {"model": {"name": "smollm2-135m"}, "lora": {}, "hardware": RTX}}
ROWS = [
    *(LORA | {"view": f"ESTIMATE_VIEW_{view}"} for view in ("BASIC", "SUMMARY", "FULL")),
    {"spec": {"model": {"name": "nonesuch"}, "lora": {}, "hardware": RTX}},
    {"spec": {"model": {"name": "qwen3-0.6b"}, "hardware": RTX}},
    {"spec": {"model": {"name": ""}, "lora": {}, "hardware": RTX}},
    {"spec": {"model": {"name": "qwen3-0.6b"}, "lora": {"rank": -1}, "hardware": RTX}},
    {
        "spec": {"model": {"name": "llama-3-70b"}, "full": {}, "training": {"max_steps": 10**9}, "hardware": RTX},
        "dataset_profile": {"examples": 10**12, "total_tokens": 9 * 10**15},
    },
    {"spec": {"model": {"name": "qwen3-0.6b"}, "qlora": {}, "hardware": {"cpu": {"cores": 4}}}},
    {
        "spec": {"model": {"name": "llama-3-8b"}, "lora": {}, "hardware": {"accelerator": "rtx-3060"}},
        "fallbacks": [{"gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"}, {"hardware": {"count": -1}}],
    },
    LORA | {"pinned": {"engine": {"id": "other"}}},
]
REFUSED = 7


def request(document):
    return json_format.ParseDict(document, estimate_pb2.EstimateRunRequest())


def batch(documents):
    rows = [
        estimator_pb2.BatchEstimateRow(key=str(number), request=request(each)) for number, each in enumerate(documents)
    ]
    return estimator_pb2.BatchEstimateRunsRequest(rows=rows)


def alone(servicer, asked):
    try:
        validation.validate(asked)
        return servicer.estimate(asked)
    except DomainError as error:
        return to_status(error)


def without_row(status, number):
    """The status with the field paths that a request by itself has."""
    text = json_format.MessageToJson(status)
    return json_format.Parse(text.replace(f"rows[{number}].request.", ""), type(status)())


async def test_each_row_of_a_batch_is_answered_as_it_is_alone():
    servicer = EstimatorServicer(KNOWLEDGE)
    results = (await servicer.BatchEstimateRuns(batch(ROWS), None)).results

    assert [result.key for result in results] == [str(number) for number in range(len(ROWS))]
    for number, (document, result) in enumerate(zip(ROWS, results, strict=True)):
        expected = alone(servicer, request(document))
        if isinstance(expected, estimate_pb2.Estimate):
            assert result.estimate == expected
        else:
            assert without_row(result.error, number) == expected
    assert sum(result.HasField("error") for result in results) == REFUSED


async def test_other_calls_get_their_turn_after_each_row():
    turns, ended = 0, asyncio.Event()

    async def other() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.create_task(other())
    await EstimatorServicer(KNOWLEDGE).BatchEstimateRuns(batch([LORA] * 50), None)
    ended.set()
    await waiting

    assert turns >= 50


class Watched(EstimatorServicer):
    """Says in which threads estimates were computed."""

    def __init__(self) -> None:
        super().__init__(KNOWLEDGE)
        self.threads = set()

    def estimate(self, request):
        self.threads.add(threading.get_ident())
        return super().estimate(request)

    def check(self, request):
        self.threads.add(threading.get_ident())
        return super().check(request)


async def full_view(servicer):
    await servicer.EstimateRun(request(LORA | {"view": "ESTIMATE_VIEW_FULL"}), None)


async def full_row(servicer):
    await servicer.BatchEstimateRuns(batch([LORA | {"view": "ESTIMATE_VIEW_FULL"}]), None)


async def searching_row(servicer):
    row = LORA | {"view": "ESTIMATE_VIEW_SUMMARY", "searches": ["ESTIMATE_SEARCH_SMALLEST_HARDWARE"]}
    await servicer.BatchEstimateRuns(batch([row]), None)


async def check(servicer):
    document = {"run": LORA, "policy": {"limits": [{"metric": "POLICY_METRIC_DEVICE_BYTES", "max": 1}]}}
    await servicer.CheckPlan(json_format.ParseDict(document, check_plan_pb2.CheckPlanRequest()), None)


@pytest.mark.parametrize("call", [full_view, full_row, searching_row, check])
async def test_searches_run_outside_the_event_loop(call):
    servicer = Watched()
    await call(servicer)

    assert servicer.threads
    assert threading.get_ident() not in servicer.threads
