# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from typing import Any

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import hardware_pb2, training_pb2
from finetree_recommender.estimator.values import Catalog, Model
from finetree_recommender.explain.ways_out.questions import Asked, Kind, preferred, wanted, ways_out_questions
from finetree_recommender.method import Method
from finetree_recommender.request.inputs import normalize
from finetree_recommender.rule_pack.pack import builtin_packs
from google.protobuf import json_format

PACK = builtin_packs()["evidence-1"]
SIZES = {
    "llama-3.1-70b": 70e9,
    "llama-3.1-8b": 8e9,
    "llama-3.2-3b": 3.2e9,
    "llama-3.2-1b": 1.2e9,
    "llama-2-7b": 6.7e9,
    "llama-2-70b": 69e9,
    "qwen3-14b": 14e9,
}
CATALOG = Catalog(models={name: Model(int(size), 8192, names=(name,)) for name, size in SIZES.items()})


def asked(**fields: Any):
    known = {"model": {"name": "llama-3.1-70b"}, "hardware": {"unknown_accelerator": {"marketed_memory_gb": 12}}}
    return normalize(json_format.ParseDict(known | fields, recommendation_pb2.RecommendRequest()), PACK, CATALOG)


@pytest.mark.parametrize(
    ("fits", "helps"),
    [
        ({}, True),
        ({"lora": None}, True),
        ({"qlora": "TIGHT"}, False),
        ({"prefix": "FITS"}, False),
        (dict.fromkeys(("full", "lora", "qlora", "prefix", "adapter"), "UNKNOWN"), False),
    ],
)
def test_ways_out_are_asked_for_where_nothing_trains(evidence, fits, helps):
    assert wanted(evidence(**fits)) is helps


def test_nothing_is_asked_without_an_estimate():
    assert not wanted(None)


def test_the_rules_method_and_the_smallest_one_are_asked_about(evidence):
    rows = ways_out_questions(PACK, asked(), evidence())
    assert {key.method for key in rows} == {Method.LORA, Method.QLORA}
    anywhere = rows[Asked(Kind.ANOTHER_GPU, Method.LORA)]
    assert {row.view for row in rows.values()} == {estimate_pb2.ESTIMATE_VIEW_SUMMARY}
    assert anywhere.searches == [estimate_pb2.ESTIMATE_SEARCH_SMALLEST_HARDWARE]
    assert anywhere.spec.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED
    nothing = replace(evidence(), parameters=70_000_000_000)
    full = ways_out_questions(PACK, asked(quality="QUALITY_NEED_MAXIMUM"), nothing)
    # Float32 weights are kept where there is a choice of hardware.
    row = full[Asked(Kind.ANOTHER_GPU, Method.FULL)]
    assert row.spec.precision == training_pb2.PRECISION_BF16_MIXED


def test_smaller_models_are_of_the_same_maker_and_first_of_the_same_series(evidence):
    """QLoRA lacks a ninth of its 9 GiB here, so that about 70B times 1.5 of what fits is tried at most."""
    names = [key.model for key in ways_out_questions(PACK, asked(), evidence()) if key.kind is Kind.SMALLER_MODEL]
    assert list(dict.fromkeys(names)) == ["llama-3.1-8b", "llama-2-7b", "llama-3.2-3b"]


@pytest.mark.parametrize(
    ("hardware", "sharded"),
    [({"count": 4}, True), ({"count": 1}, False), ({"count": 4, "sharding": "SHARDING_FULL"}, False)],
)
def test_devices_at_hand_are_tried_together_where_each_holds_the_whole_model(evidence, hardware, sharded):
    gpus = {"unknown_accelerator": {"marketed_memory_gb": 24}, **hardware}
    rows = ways_out_questions(PACK, asked(hardware=gpus), evidence())
    found = [row for key, row in rows.items() if key.kind is Kind.SEVERAL_GPUS]
    assert [row.spec.hardware.sharding for row in found] == [hardware_pb2.SHARDING_FULL] * (2 if sharded else 0)


def test_no_smaller_model_is_asked_about_that_would_truncate_the_rows(evidence):
    short = Catalog(models=dict(CATALOG.models) | {"llama-3.1-8b": Model(8_000_000_000, 4096, names=("llama-3.1-8b",))})

    def models(tokens: int) -> set[str]:
        rows = {"examples": 10, "token_lengths": [{"upper_bound": tokens, "count": 10}]}
        known = {"model": {"name": "llama-3.1-70b"}, "hardware": {"unknown_accelerator": {"marketed_memory_gb": 12}}}
        request = json_format.ParseDict(known | {"dataset_profile": rows}, recommendation_pb2.RecommendRequest())
        return {key.model for key in ways_out_questions(PACK, normalize(request, PACK, short), evidence()) if key.model}

    assert "llama-3.1-8b" in models(4000)
    assert "llama-3.1-8b" not in models(6000)
    assert models(6000)


@pytest.mark.parametrize(
    ("servers", "methods"),
    [
        ([], (Method.PREFIX, Method.QLORA)),
        (["LLAMA_CPP"], (Method.LORA, Method.QLORA)),
        (["TRANSFORMERS"], (Method.PREFIX, Method.QLORA)),
    ],
)
def test_methods_whose_result_a_named_server_does_not_load_are_no_way_out(servers, methods):
    playbook = builtin_packs()["playbook-1"]
    fields = {"time": "TIME_NEED_MINUTES", "quality": "QUALITY_NEED_EXPERIMENTAL"}
    found = preferred(
        playbook, asked(serving=[f"SERVING_TARGET_{name}" for name in servers], **fields).reread(playbook)
    )
    assert found == methods
