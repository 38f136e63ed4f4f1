# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong with a request is said with the field that it is in; numbers are never nonsense."""

import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from finetree_api.estimator.v1 import estimate_pb2, estimator_pb2
from finetree_estimator.servicer import MAX_BATCH_ROWS
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

INVALID = grpc.StatusCode.INVALID_ARGUMENT
SHAPE = {"hidden_size": 64, "layers": 2, "intermediate_size": 128, "attention_heads": 4, "vocab_size": 100}
_SHAPE = "spec.model.shape"
HOLDERS = {_SHAPE: SHAPE, "spec.hardware.cpu": {"cores": 2, "memory_bytes": 8 << 30}}
"""What a part of a spec needs besides the field that is tried."""


def fields(descriptor: Descriptor, kinds: set[int], path: str = "") -> Iterator[str]:
    """Paths of the fields of these C++ types below a message, those of lists as their first element."""
    for field in descriptor.fields:
        name = f"{path}{field.name}" + ("[0]" if field.is_repeated else "")
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            yield from fields(field.message_type, kinds, f"{name}.")
        elif field.cpp_type in kinds:
            yield name


def put(request: estimate_pb2.EstimateRunRequest, path: str, value: Any) -> None:
    for holder, content in HOLDERS.items():
        if path.startswith(f"{holder}."):
            target = request
            for name in holder.split("."):
                target = getattr(target, name)
            json_format.ParseDict(content, target)
    *parents, last = path.split(".")
    target = request
    for name in parents:
        target = getattr(target, name.removesuffix("[0]"))
        if name.endswith("[0]"):
            target = target[0] if len(target) else target.add()
    setattr(target, last, value)


async def refused(stub, explain, request):
    """Code, reason and fields of the refusal of a request; None where it is answered."""
    try:
        await stub.EstimateRun(request)
    except grpc.aio.AioRpcError as error:
        found = explain(error)
        return error.code(), found.reason, found.fields
    return None


def numbers(*types: int) -> list[str]:
    """Paths of numbers of a request; a fallback is a spec again, and is validated when it is tried."""
    found = fields(estimate_pb2.EstimateRunRequest.DESCRIPTOR, set(types))
    return sorted(path for path in found if not path.startswith("fallbacks"))


DOUBLES = numbers(FieldDescriptor.CPPTYPE_DOUBLE)
INTEGERS = [
    *((path, value) for path in numbers(FieldDescriptor.CPPTYPE_INT64) for value in (-(2**63), -1, 2**53, 2**63 - 1)),
    *((path, value) for path in numbers(FieldDescriptor.CPPTYPE_INT32) for value in (-(2**31), -1, 2**31 - 1)),
]


async def test_no_number_that_is_none_is_taken(stub, request_of, explain):
    assert len(DOUBLES) > 15
    for path in DOUBLES:
        for value in (math.nan, math.inf, -math.inf, 1e308):
            request = request_of()
            put(request, path, value)
            code, reason, found = await refused(stub, explain, request) or ("answered", "", [])
            assert (code, reason) == (INVALID, "INVALID_REQUEST"), (path, value)
            assert path in found, (path, value)


async def test_integers_beyond_sense_are_refused_with_their_field(stub, request_of, explain):
    assert len(INTEGERS) > 120
    for path, value in INTEGERS:
        request = request_of()
        put(request, path, value)
        code, reason, found = await refused(stub, explain, request) or ("answered", "", [])
        assert (code, reason) == (INVALID, "INVALID_REQUEST"), (path, value)
        # Money is refused as a whole.
        assert {path, path.removesuffix(".units").removesuffix(".nanos")} & set(found), (path, value)


WRONG = "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        ({"lora": {"rank": 0}}, (WRONG, "spec.lora.rank")),
        ({"qlora": {"lora": {"rank": 0}}}, (WRONG, "spec.qlora.lora.rank")),
        ({"adapter": {"bottleneck_size": 0}}, (WRONG, "spec.adapter.bottleneck_size")),
        ({"prefix": {"virtual_tokens": 0}}, (WRONG, "spec.prefix.virtual_tokens")),
        ({"full": {"frozen_layers": 28}}, (WRONG, "spec.full.frozen_layers")),
        ({"model": {"shape": SHAPE | {"attention_heads": 65}}}, (WRONG, f"{_SHAPE}.attention_heads")),
        ({"model": {"shape": SHAPE | {"attention_heads": 128, "head_dim": 8}}}, (WRONG, f"{_SHAPE}.attention_heads")),
        ({"model": {"shape": SHAPE | {"kv_heads": 3}}}, (WRONG, f"{_SHAPE}.kv_heads")),
        ({"model": {"shape": SHAPE | {"experts": 2, "active_experts": 3}}}, (WRONG, f"{_SHAPE}.active_experts")),
        (
            {"model": {"shape": SHAPE | {"max_position_embeddings": 64}}, "training": {"sequence_length": 65}},
            ("SEQUENCE_TOO_LONG", "spec.training.sequence_length"),
        ),
        (
            {"prefix": {}, "gradient_checkpointing": "GRADIENT_CHECKPOINTING_OFFLOADED"},
            ("PREFIX_WITH_CHECKPOINTING", "spec.gradient_checkpointing"),
        ),
    ],
)
async def test_recipes_that_contradict_themselves(stub, request_of, explain, spec, refusal):
    reason, field = refusal

    assert await refused(stub, explain, request_of(spec)) == (INVALID, reason, [field])


@pytest.mark.parametrize(
    "said",
    [
        {"compile": True},
        {"sharding_library": "SHARDING_LIBRARY_DEEPSPEED"},
        {"allocator_cache": "ALLOCATOR_CACHE_KEPT"},
        {"allocator_cache": "ALLOCATOR_CACHE_EMPTIED"},
        {"experts": "EXPERT_PRODUCTS_IN_TURN"},
        {"layer_kernels": "LAYER_KERNELS_FUSED"},
    ],
    ids=["compile", "library", "kept", "emptied", "experts", "kernels"],
)
async def test_what_only_other_programs_do(stub, request_of, explain, said):
    fields = [f"spec.program.{name}" for name in said]
    assert await refused(stub, explain, request_of({"program": said})) == (INVALID, WRONG, fields)
    other = {"program": "TRAINING_PROGRAM_TRANSFORMERS"} | said
    assert await refused(stub, explain, request_of({"program": other})) is None


async def test_the_refusal_of_a_long_sequence_names_the_limit(stub, request_of):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EstimateRun(request_of({"model": {"name": "phi-2"}, "training": {"sequence_length": 4096}}))

    assert "2048 positions" in caught.value.details()


async def test_two_methods_cannot_be_written_together_and_on_the_wire_the_last_one_counts(stub, request_of):
    with pytest.raises(json_format.ParseError, match="oneof"):
        request_of({"qlora": {}, "full": {}})
    both = request_of({"qlora": {}}).SerializeToString() + request_of({"full": {}}).SerializeToString()
    estimate = (await stub.EstimateRun(estimate_pb2.EstimateRunRequest.FromString(both))).estimate

    assert estimate.resolved_spec.WhichOneof("method") == "full"
    assert estimate.trainable_parameters == estimate.total_parameters


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ({"model": {"name": "lama-3.1-8b"}}, "llama-3.1-8b"),
        ({"model": {"hub": {"id": "meta-llama/Llama-3.1-8"}}}, "meta-llama/Llama-3.1-8B"),
        ({"hardware": {"accelerator": "rtx-4009"}}, "rtx-4090"),
        pytest.param(
            {"ownership": {"rented": {"price_id": "vast/rtx-4090"}}},
            "vast/rtx-4090/2026-07-15",
            marks=pytest.mark.service_alone("catalog"),
        ),
    ],
)
async def test_an_unknown_name_suggests_the_nearest(stub, request_of, spec, nearest):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EstimateRun(request_of(spec))

    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert nearest in caught.value.details()


async def test_a_batch_of_two_thousand_is_refused_whole(stub, request_of, explain):
    rows = [estimator_pb2.BatchEstimateRow(key=str(number), request=request_of()) for number in range(2000)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.BatchEstimateRuns(estimator_pb2.BatchEstimateRunsRequest(rows=rows))

    assert explain(caught.value).fields == ["rows"]
    assert str(MAX_BATCH_ROWS) in caught.value.details()
    assert (await stub.EstimateRun(request_of())).estimate.memory.device_bytes.expected > 0
