# SPDX-License-Identifier: Apache-2.0
"""Runs that take over fallbacks until they fit."""

import grpc
import pytest
from finetree_api.types.v1 import estimate_summary_pb2


def changes(**settings: object) -> dict[str, object]:
    """Fallbacks of a request, as proto JSON."""
    return {"fallbacks": [{"gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"}, {"training": settings}]}


SMALL = {"model": {"name": "smollm2-135m-instruct"}}
LARGE = {"model": {"name": "llama-3.1-8b"}, "qlora": {}, "hardware": {"accelerator": "rtx-4090"}}
LARGE["gradient_checkpointing"] = "GRADIENT_CHECKPOINTING_OFF"


async def test_a_run_that_fits_takes_no_fallback(stub, request_of):
    plain = (await stub.EstimateRun(request_of(SMALL))).estimate
    asked = (await stub.EstimateRun(request_of(SMALL, **changes(micro_batch_size=1)))).estimate

    assert asked == plain
    assert asked.fallbacks_taken == 0


@pytest.mark.parametrize(("rows", "length", "taken"), [(16, 1024, 1), (64, 4096, 2)])
@pytest.mark.service_alone("figures")
async def test_a_run_takes_over_fallbacks_until_it_fits(stub, request_of, rows, length, taken):
    training = {"micro_batch_size": rows, "effective_batch_size": rows, "sequence_length": length}
    spec = LARGE | {"training": training}
    given = (await stub.EstimateRun(request_of(spec, **changes(micro_batch_size=1)))).estimate
    merged = spec | {"gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"}
    if taken == 2:
        merged["training"] = training | {"micro_batch_size": 1}
    same = (await stub.EstimateRun(request_of(merged))).estimate

    assert given.fallbacks_taken == taken
    assert given.fit.verdict == estimate_summary_pb2.FIT_VERDICT_FITS
    same.fallbacks_taken = taken
    assert given == same


async def test_fallbacks_are_merged_one_after_the_other_until_the_run_fits(stub, request_of):
    small = {"model": {"name": "smollm2-135m-instruct"}}
    never = {"optimizer": "OPTIMIZER_SGD"}
    spec = {"model": {"name": "llama-3-70b"}, "full": {}}
    merged = spec | small | {"training": {"micro_batch_size": 1}}
    tried = [{"training": {"micro_batch_size": 1}}, small, never]
    given = (await stub.EstimateRun(request_of(spec, fallbacks=tried))).estimate
    same = (await stub.EstimateRun(request_of(merged))).estimate

    assert given.fallbacks_taken == 2
    assert given.fit.verdict == estimate_summary_pb2.FIT_VERDICT_FITS
    same.fallbacks_taken = 2
    assert given == same


async def test_where_no_fallback_helps_the_last_one_is_answered(stub, request_of):
    spec = {"model": {"name": "llama-3-70b"}, "full": {}}
    answer = (await stub.EstimateRun(request_of(spec, **changes(micro_batch_size=1)))).estimate

    assert answer.fit.verdict == estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT
    assert answer.fallbacks_taken == 2
    assert answer.resolved_spec.training.micro_batch_size == 1


async def test_a_fallback_that_cannot_be_is_refused(stub, request_of, explain):
    spec = {"model": {"name": "llama-3-70b"}, "prefix": {}}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EstimateRun(request_of(spec, **changes(micro_batch_size=1)))

    assert explain(caught.value).reason == "PREFIX_WITH_CHECKPOINTING"


async def test_a_fallback_is_validated_when_it_is_tried(stub, request_of, explain):
    wrong = {"fallbacks": [{"training": {"learning_rate": "NaN"}}]}
    assert (await stub.EstimateRun(request_of(SMALL, **wrong))).estimate.fallbacks_taken == 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EstimateRun(request_of({"model": {"name": "llama-3-70b"}}, **wrong))

    assert explain(caught.value).fields == ["fallbacks[0].spec.training.learning_rate"]
