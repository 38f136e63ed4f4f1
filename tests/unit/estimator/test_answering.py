# SPDX-License-Identifier: Apache-2.0
"""Requests that are answered abreast are answered as each would be alone."""

import asyncio

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_estimator.batches import ROWS_AT_A_TIME
from finetree_estimator.batches import abreast as taken_together
from finetree_estimator.catalog import prices
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import DomainError, to_status
from finetree_runtime.server import validation
from google.protobuf import json_format

KNOWLEDGE = Knowledge(prices.packaged())
METHODS = ("lora", "qlora", "full", "prefix", "adapter")
RTX = {"accelerator": "rtx-4090"}
ODD = [
    {"spec": {"model": {"name": "nonesuch"}, "lora": {}, "hardware": RTX}},
    {"spec": {"model": {"name": "qwen3-0.6b"}, "hardware": RTX}},
    {"spec": {"model": {"name": ""}, "lora": {}, "hardware": RTX}},
    {"spec": {"model": {"name": "qwen3-0.6b"}, "lora": {"rank": -1}, "hardware": RTX}},
    {
        "spec": {"model": {"name": "llama-3-70b"}, "full": {}, "training": {"max_steps": 10**9}, "hardware": RTX},
        "dataset_profile": {"examples": 10**12, "total_tokens": 9 * 10**15},
    },
    {"spec": {"model": {"name": "qwen3-0.6b"}, "lora": {}, "hardware": {"cpu": {"cores": 4}}}},
    {
        "spec": {"model": {"name": "llama-3-8b"}, "lora": {}, "hardware": {"accelerator": "rtx-3060"}},
        "fallbacks": [{"gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"}, {"hardware": {"count": -1}}],
    },
    {"spec": {"model": {"name": "qwen3-0.6b"}, "lora": {}, "hardware": RTX}, "pinned": {"engine": {"id": "other"}}},
]
"""Requests that are refused, each by another step, or that take another way."""


def requests():
    """Sound ones of all methods and views, with the odd ones among them."""
    views = ("ESTIMATE_VIEW_BASIC", "ESTIMATE_VIEW_SUMMARY", "ESTIMATE_VIEW_FULL")
    found = []
    for number in range(ROWS_AT_A_TIME + 8):
        spec = {"model": {"name": "smollm2-135m"}, METHODS[number % 5]: {}, "hardware": RTX}
        # The FULL view takes a hundred times as long: once is enough.
        view = views[2] if number == 7 else views[number % 2]
        found.append({"spec": spec, "dataset_profile": {"examples": 100 + number // 3}, "view": view})
    for place, odd in enumerate(ODD):
        found.insert(5 * place, odd)
    return [json_format.ParseDict(document, pb.EstimateRunRequest()) for document in found]


def alone(servicer, request):
    """The result of a request by itself."""
    try:
        return servicer.estimate(validation.read(pb.EstimateRunRequest, request.SerializeToString(deterministic=True)))
    except DomainError as error:
        return to_status(error)


def abreast(servicer, asked):
    """The results of a batch of them."""
    rows = [pb.BatchEstimateRow(key=str(number), request=request) for number, request in enumerate(asked)]
    batch = pb.BatchEstimateRunsRequest(rows=rows).SerializeToString(deterministic=True)
    return pb.BatchEstimateRunsResponse.FromString(asyncio.run(servicer.BatchEstimateRuns(batch, None))).results


def status_without_place(status, number):
    """A status with the paths that a request by itself has."""
    text = json_format.MessageToJson(status)
    return json_format.Parse(text.replace(f"rows[{number}].request.", ""), type(status)())


@pytest.mark.parametrize("known", [False, True])
def test_each_row_of_a_batch_is_answered_as_it_is_alone(known):
    asked, servicer = requests(), EstimatorServicer(KNOWLEDGE)
    if known:
        abreast(servicer, asked[::2])
    results = abreast(servicer, asked)
    lonely = EstimatorServicer(KNOWLEDGE)

    assert [result.key for result in results] == [str(number) for number in range(len(asked))]
    for number, (request, result) in enumerate(zip(asked, results, strict=True)):
        expected = alone(lonely, request)
        if isinstance(expected, pb.Estimate):
            assert result.estimate == expected
        else:
            assert status_without_place(result.error, number) == expected
    assert sum(result.HasField("error") for result in results) >= len(ODD) - 2


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ("", []),
        ("b", [(0, 1)]),
        ("f", [(0, 1)]),
        ("bbfffb", [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]),
        ("b" * (2 * ROWS_AT_A_TIME), [(0, ROWS_AT_A_TIME), (ROWS_AT_A_TIME, 2 * ROWS_AT_A_TIME)]),
        ("b" * ROWS_AT_A_TIME + "f", [(0, ROWS_AT_A_TIME), (ROWS_AT_A_TIME, ROWS_AT_A_TIME + 1)]),
    ],
)
def test_other_calls_wait_for_a_few_rows_or_for_one_that_is_searched_for(views, expected):
    view = {"b": pb.ESTIMATE_VIEW_BASIC, "f": pb.ESTIMATE_VIEW_FULL}
    rows = [pb.BatchEstimateRow(request=pb.EstimateRunRequest(view=view[each])) for each in views]

    assert list(taken_together(rows)) == expected
