# SPDX-License-Identifier: Apache-2.0
"""Codes of remarks are part of the contract: a client may act on them."""

import ast
from pathlib import Path

import finetree_estimator
import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.evidence.confidence import _RESPECTS
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from google.protobuf import json_format

CODES = {
    "ACCELERATOR_MEMORY_ASSUMED",
    "ACCELERATOR_UNKNOWN",
    "ATTENTION_EAGER",
    "CHECKPOINTS_SLOW",
    "CPU_CORES_UNKNOWN",
    "CPU_RATE_UNKNOWN",
    "DEVICES_HOLD_COPIES",
    "DEVICES_RARELY_MEASURED",
    "DEVICES_SHARE_CORES",
    "DEVICE_NEARLY_FULL",
    "EXPERTS_NOT_QUANTIZED",
    "FRAGMENTATION",
    "LAPTOP_POWER_UNKNOWN",
    "LONGEST_ROW_UNKNOWN",
    "MEMORY_CORRECTED",
    "METHOD_RARELY_MEASURED",
    "MICRO_BATCH_DIFFERS",
    "MODEL_FAMILY_UNKNOWN",
    "MODEL_SIZE_DIFFERS",
    "NETWORK_ASSUMED",
    "NO_NATIVE_BF16",
    "NO_TENSOR_CORES",
    "PREFIX_NOT_TRAINED",
    "RATE_FROM_CLASS",
    "RATE_FROM_PRODUCTS",
    "ROWS_TRUNCATED",
    "ROWS_UNKNOWN",
    "RUN_DOES_NOT_FIT",
    "SETTING_ASSUMED",
    "STEP_TIME_CORRECTED",
    "TEXT_MODEL_ONLY",
    "TOKENS_ESTIMATED",
}
"""Every code but those of respects in which the nearest measured run differs."""
RESPECTS = {
    *("ACCELERATOR", "ARCHITECTURE", "ATTENTION", "BASE_BITS", "CHECKPOINTING", "DEVICE_COUNT", "EXPERTS"),
    *("LINEAR_ATTENTION", "METHOD", "NODE_COUNT", "PROGRAM", "SHARDING"),
}
"""Each has a code that ends in _DIFFERS and one that ends in _NOT_MEASURED."""


def test_every_code_is_listed_here():
    found = set()
    for file in Path(finetree_estimator.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in CODES:
                found.add(node.value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Remark":
                code = node.args[0]
                assert not isinstance(code, ast.Constant) or code.value in CODES, f"{file.name}: {code.value}"

    assert found == CODES
    assert {respect.code for respect in _RESPECTS.values()} == RESPECTS


@pytest.mark.parametrize(
    ("spec", "code", "field_path"),
    [
        ({}, "ROWS_UNKNOWN", "spec.dataset.profile.examples"),
        (
            {"dataset": {"profile": {"examples": 9, "total_tokens": 576_000}}, "training": {"sequence_length": 2048}},
            "ROWS_TRUNCATED",
            "spec.training.sequence_length",
        ),
        ({"dataset": {"profile": {"examples": 9}}}, "SETTING_ASSUMED", "spec.dataset.profile.total_tokens"),
        (
            {"dataset": {"profile": {"examples": 9, "total_tokens": 576}}},
            "LONGEST_ROW_UNKNOWN",
            "dataset_profile.token_lengths",
        ),
        (
            {
                "dataset": {
                    "profile": {"examples": 9, "total_tokens": 576, "total_tokens_range": {"low": 99, "high": 999}}
                }
            },
            "TOKENS_ESTIMATED",
            "dataset_profile.total_tokens_range",
        ),
        ({"hardware": {"cpu": {}}}, "CPU_CORES_UNKNOWN", "spec.hardware.cpu.cores"),
        ({"hardware": {"accelerator": "A100"}}, "ACCELERATOR_MEMORY_ASSUMED", "spec.hardware.accelerator"),
    ],
)
def test_a_remark_names_the_field_that_it_is_about(spec, code, field_path):
    whole = {"model": {"name": "smollm2-135m"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}} | spec
    request = json_format.ParseDict({"spec": whole}, estimate_pb2.EstimateRunRequest())
    remarks = EstimatorServicer(Knowledge(price_book.packaged())).estimate(request).remarks

    assert {(remark.code, remark.field_path) for remark in remarks} >= {(code, field_path)}


def test_unknown_lengths_of_the_rows_are_told_once():
    spec = {"model": {"name": "smollm2-135m"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}}
    spec["dataset"] = {"profile": {"examples": 9}}
    request = json_format.ParseDict({"spec": spec}, estimate_pb2.EstimateRunRequest())
    remarks = EstimatorServicer(Knowledge(price_book.packaged())).estimate(request).remarks

    assert [remark.message for remark in remarks if "row" in remark.message.split()] == [
        "every row as long as 2048 tokens"
    ]
