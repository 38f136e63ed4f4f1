# SPDX-License-Identifier: Apache-2.0
"""What an estimate says that it assumed."""

import pytest
from finetree_api.types.v1 import run_spec_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.spec.assumptions import _PHRASES, assumptions
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.runspec.defaults import defaults_for

KNOWLEDGE = Knowledge(price_book.packaged())
WITHOUT_EFFECT = {
    *("training.learning_rate", "training.schedule", "training.warmup_ratio", "training.weight_decay"),
    *("training.max_grad_norm", "training.non_finite_limit", "training.loss_tokens", "training.seed"),
    "training.append_eos",
    *("checkpoints.every_steps", "checkpoints.keep", "checkpoints.keep_best", "optimizer_in_backward"),
    *("program.compile", "evaluation.metrics", "evaluation.max_new_tokens", "evaluation.samples"),
    *("evaluation.before_training", "prefix.init", "qlora.double_quantization", "lora.alpha", "qlora.lora.alpha"),
    *("lora.rank_stabilized", "lora.weight_decomposed", "lora.include_experts", "qlora.lora.rank_stabilized"),
    *("qlora.lora.weight_decomposed", "qlora.lora.include_experts", "lora.train_embeddings", "lora.train_head"),
    *("qlora.lora.train_embeddings", "qlora.lora.train_head"),
}
"""Defaults that change little or nothing of what a run takes, or that switch something off."""


def said(request):
    parsed = parse_request(request, KNOWLEDGE)
    found = tuple(assumptions(parsed.spec, parsed.defaults, parsed.run))
    assert {remark.code for remark in found} <= {"SETTING_ASSUMED"}
    return {remark.field_path.removeprefix("spec."): remark.message for remark in found}


def test_each_setting_that_was_left_open_is_said_with_its_value(request_of):
    request = request_of(training={"epochs": 2}, lora={"rank": 16}, hardware={"accelerator": "h100", "count": 2})
    found = said(request)
    assert {"lora.rank", "training.epochs", "hardware.count"}.isdisjoint(found)
    assert found["lora.targets"] == "all-linear targets"
    assert found["optimizer"] == "adamw"
    assert found["gradient_checkpointing"] == "checkpointing on"
    assert found["hardware.sharding"] == "a full copy on each device"
    assert found["program.program"] == "trained by finetree"


@pytest.mark.parametrize(("profile", "assumed"), [({"examples": 9}, 1), ({"examples": 9, "total_tokens": 900}, 0)])
def test_unknown_row_lengths_are_an_assumption(request_of, profile, assumed):
    request = request_of()
    request.ClearField("dataset_profile")
    request.spec.dataset.profile.examples = profile["examples"]
    if tokens := profile.get("total_tokens"):
        request.spec.dataset.profile.total_tokens = tokens
    assert ("dataset.profile.total_tokens" in said(request)) == bool(assumed)


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
def test_every_default_has_words_or_changes_nothing(method):
    spec = run_spec_pb2.RunSpec()
    getattr(spec, method).SetInParent()
    spec.hardware.accelerator, spec.hardware.count = "h100", 2
    spec.evaluation.split_fraction = 0.1
    paths = {each.field_path for each in defaults_for(spec, suggested_length=0, positions=0, matrix_rates=None)}
    assert paths - set(_PHRASES) <= WITHOUT_EFFECT
    assert not WITHOUT_EFFECT & set(_PHRASES)
