# SPDX-License-Identifier: Apache-2.0
"""Fallbacks are tried as if the changed request had been asked by itself, though less is computed."""

import json
from importlib import resources

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_estimator import estimate as engine
from finetree_estimator.catalog.prices import packaged
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.spec.parse import read
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import fallbacks
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.server.validation import validate
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet

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
    return json_format.ParseDict(document, pb.EstimateRunRequest())


def merged(request, taken):
    """The request with its first fallbacks made part of the spec, as a client would ask it."""
    same = pb.EstimateRunRequest()
    same.CopyFrom(request)
    for change in request.fallbacks[:taken]:
        same.spec.MergeFrom(change)
    del same.fallbacks[:]
    return same


def estimate_of(chosen):
    return engine.estimate(chosen.reading.run, fitted=chosen.fitted, told=chosen.told)


@pytest.mark.parametrize("changes", [(CHECKPOINTED,), (CHECKPOINTED, SHORT), (CHECKPOINTED, SHORT, QUANTIZED)])
def test_the_chosen_run_is_the_one_that_the_changed_request_asks_for(changes):
    request = asked(*changes)
    found = fallbacks.choose(request, KNOWLEDGE)
    chosen, reading, taken = found.request, found.reading, found.taken
    same = read(merged(request, taken), KNOWLEDGE)

    assert taken > 0
    assert chosen == merged(request, taken)
    assert (reading.run, reading.spec) == (same.run, same.spec)
    assert estimate_of(found) == engine.estimate(same.run)


def test_only_the_chosen_run_is_estimated_as_a_whole(monkeypatch):
    whole, real = [], engine.phases.estimate
    monkeypatch.setattr(engine.phases, "estimate", lambda run, spread: whole.append(run) or real(run, spread))
    found = fallbacks.choose(asked(CHECKPOINTED, SHORT, QUANTIZED), KNOWLEDGE)
    estimate_of(found)

    assert found.taken > 0
    assert whole == [found.reading.run]


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("accelerator", ["gtx-1080-ti", "rtx-4090", "h100-sxm"])
def test_weights_that_exceed_a_device_need_no_peak_and_change_no_answer(method, accelerator):
    request = asked(CHECKPOINTED, SHORT, model={"name": "llama-3.1-70b"}, hardware={"accelerator": accelerator})
    getattr(request.spec, method).SetInParent()
    found = fallbacks.choose(request, KNOWLEDGE)
    run = found.reading.run

    assert (found.fitted is None) is engine.exceeds(run)
    assert estimate_of(found) == engine.estimate(run)
    assert engine.fit_of(run)[1].verdict is Verdict.DOES_NOT_FIT or not engine.exceeds(run)
    # 40 GB of packed weights alone are too much for the two small cards, 140 GB for all three.
    assert engine.exceeds(run) is (method != "qlora" or accelerator != "h100-sxm")


def test_a_summary_has_the_same_numbers_and_no_words():
    told = estimate_of(fallbacks.choose(asked(CHECKPOINTED, SHORT), KNOWLEDGE))
    brief = estimate_of(fallbacks.choose(asked(CHECKPOINTED, SHORT, view="ESTIMATE_VIEW_SUMMARY"), KNOWLEDGE))

    assert (brief.memory, brief.fit, brief.times, brief.cost) == (told.memory, told.fit, told.times, told.cost)
    assert told.confidence.reasons
    assert brief.confidence.reasons == brief.notes == ()


def test_a_request_is_never_changed():
    request = asked(CHECKPOINTED, SHORT)
    before = request.SerializeToString(deterministic=True)
    reading = fallbacks.choose(request, KNOWLEDGE).reading
    reading.spec.training.epochs = 77

    assert request.SerializeToString(deterministic=True) == before
    assert read(request, KNOWLEDGE).spec.training.epochs == 3


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
        fallbacks.choose(request, KNOWLEDGE)

    assert (refused.value.reason, str(refused.value)) == (expected.value.reason, str(expected.value))
    assert refused.value.violations == expected.value.violations


def test_rules_of_the_contract_are_each_about_one_field():
    """What `fallbacks` rests on: no message has a rule of its own, which could look at several of its fields."""
    image = resources.files("finetree_api").joinpath("rules.binpb").read_bytes()
    files = [file for file in FileDescriptorSet.FromString(image).file if file.package.startswith("finetree_api.types")]
    messages = [message for file in files for message in file.message_type]

    assert any(field.options.ByteSize() for message in messages for field in message.field)
    assert [message.name for message in messages if message.options.ByteSize()] == []
