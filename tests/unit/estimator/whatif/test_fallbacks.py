# SPDX-License-Identifier: Apache-2.0
"""Fallbacks are tried as if the changed request had been asked by itself, though less is computed."""

import json

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator import estimate as engine
from finetree_estimator.catalog.price_book import packaged
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import fallbacks
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.server.validation import validate
from google.protobuf import json_format

KNOWLEDGE = Knowledge(packaged())
LARGE = {"model": {"name": "llama-3.1-8b"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}}
LARGE["gradient_checkpointing"] = "GRADIENT_CHECKPOINTING_OFF"
CHECKPOINTED = {"gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"}
SHORT = {"training": {"micro_batch_size": 1, "sequence_length": 256}}
QUANTIZED = {"qlora": {}}


def asked(*changes: object, view="ESTIMATE_VIEW_BASIC", **spec: object):
    document = {
        "spec": {**LARGE, **spec},
        "dataset_profile": {"examples": 1000, "total_tokens": 500_000},
        "fallbacks": list(changes),
        "view": view,
    }
    return json_format.ParseDict(document, estimate_pb2.EstimateRunRequest())


def merged(request, taken):
    """The request with its first fallbacks made part of the spec, as a client would ask it."""
    same = estimate_pb2.EstimateRunRequest()
    same.CopyFrom(request)
    for change in request.fallbacks[:taken]:
        same.spec.MergeFrom(change)
    del same.fallbacks[:]
    return same


@pytest.mark.parametrize("changes", [(CHECKPOINTED,), (CHECKPOINTED, SHORT), (CHECKPOINTED, SHORT, QUANTIZED)])
def test_the_chosen_run_is_the_one_that_the_changed_request_asks_for(changes):
    request = asked(*changes)
    found = fallbacks.answer_request(request, KNOWLEDGE)
    same = parse_request(merged(request, found.fallbacks_taken), KNOWLEDGE)

    assert found.fallbacks_taken > 0
    assert found.parsed.request == merged(request, found.fallbacks_taken)
    assert (found.parsed.run, found.parsed.spec) == (same.run, same.spec)
    assert found.estimate == engine.estimate(same.run)


def test_only_the_chosen_run_is_estimated_as_a_whole(monkeypatch):
    whole, real = [], engine.phases.estimate
    monkeypatch.setattr(engine.phases, "estimate", lambda run, spread: whole.append(run) or real(run, spread))
    found = fallbacks.answer_request(asked(CHECKPOINTED, SHORT, QUANTIZED), KNOWLEDGE)

    assert found.fallbacks_taken > 0
    assert whole == [found.parsed.run]


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("accelerator", ["gtx-1080-ti", "rtx-4090", "h100-sxm"])
def test_weights_that_exceed_a_device_need_no_peak_and_change_no_answer(method, accelerator):
    request = asked(CHECKPOINTED, SHORT, model={"name": "llama-3.1-70b"}, hardware={"accelerator": accelerator})
    getattr(request.spec, method).SetInParent()
    found = fallbacks.answer_request(request, KNOWLEDGE)
    run = found.parsed.run
    exceeds = engine.Prediction(run).exceeds

    assert found.estimate == engine.estimate(run)
    assert engine.fit_of(run)[1].verdict is Verdict.DOES_NOT_FIT or not exceeds
    # 40 GB of packed weights alone are too much for the two small cards, 140 GB for all three.
    assert exceeds is (method != "qlora" or accelerator != "h100-sxm")


def test_a_summary_has_the_same_numbers_and_no_words():
    told = fallbacks.answer_request(asked(CHECKPOINTED, SHORT), KNOWLEDGE).estimate
    brief = fallbacks.answer_request(asked(CHECKPOINTED, SHORT, view="ESTIMATE_VIEW_SUMMARY"), KNOWLEDGE).estimate

    assert (brief.memory, brief.fit, brief.times, brief.cost) == (told.memory, told.fit, told.times, told.cost)
    assert told.confidence.reasons
    assert brief.confidence.reasons == brief.remarks == ()


def test_a_request_is_never_changed():
    request = asked(CHECKPOINTED, SHORT)
    before = request.SerializeToString(deterministic=True)
    fallbacks.answer_request(request, KNOWLEDGE).parsed.spec.training.epochs = 77

    assert request.SerializeToString(deterministic=True) == before
    assert parse_request(request, KNOWLEDGE).spec.training.epochs == 3


def test_a_candidate_is_read_as_a_request_of_its_own_would_be():
    tried = (
        {"training": {"micro_batch_size": 1}},
        {"qlora": {"quantization": "QUANTIZATION_NF4"}},
        {"precision": "PRECISION_FP32"},
        {"model": {"name": "qwen2.5-0.5b"}},
        {"hardware": {"accelerator": "l4"}},
    )
    request = asked(*tried)
    before = parse_request(request, KNOWLEDGE)
    for taken in range(1, len(tried) + 1):
        changed = merged(request, taken)
        alone = parse_request(changed, KNOWLEDGE)
        before = parse_request(changed, KNOWLEDGE, like=before)
        assert (before.run, before.spec) == (alone.run, alone.spec)


WRONG = [
    {"training": {"micro_batch_size": 0}},
    {"training": {"epochs": 1e9}},
    {"lora": {"rank": 0}},
    {"qlora": {"lora": {"dropout": 1.5}}},
    {"model": {"name": ""}},
    {"model": {"shape": {"hidden_size": 64}}},
    {"hardware": {"count": -1}},
    {"hardware": {"unknown_accelerator": {}}},
    {"precision": 77},
    {"evaluation": {"metrics": ["METRIC_UNSPECIFIED"]}},
    {"lora": {"target_modules": ["q_proj"] * 40}},
]


@pytest.mark.parametrize("wrong", WRONG, ids=[json.dumps(wrong)[:60] for wrong in WRONG])
def test_a_wrong_fallback_is_refused_as_the_changed_request_would_be(wrong):
    request = asked(CHECKPOINTED, wrong, lora={"target_modules": ["q_proj"] * 40, "rank": 256})
    with pytest.raises(InvalidArgument) as expected:
        validate(merged(request, 2), path="fallbacks[1]")
    with pytest.raises(InvalidArgument) as refused:
        fallbacks.answer_request(request, KNOWLEDGE)

    assert (refused.value.reason, str(refused.value)) == (expected.value.reason, str(expected.value))
    assert refused.value.violations == expected.value.violations
