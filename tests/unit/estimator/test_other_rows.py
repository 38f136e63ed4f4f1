# SPDX-License-Identifier: Apache-2.0
"""The benchmark's table of other people's runs: each row can be asked, and what was understood of them stays so."""

import statistics
import sys
from pathlib import Path

import pytest
from finetree_estimator import prices
from finetree_estimator.lookups import Knowledge
from finetree_estimator.servicer import EstimatorServicer
from finetree_runtime.validation import validate

sys.path.append(str(Path(__file__).parents[3] / "benchmarks" / "estimator"))

from other_rows import OtherRow, other_rows

ROWS = other_rows()
FMS = "github:foundation-model-stack/fms-acceleration"


@pytest.fixture(scope="module")
def found():
    servicer = EstimatorServicer(Knowledge(prices.packaged()))
    return [(row, servicer.estimate(row.request)) for row in ROWS]


def test_every_row_is_a_sound_request_with_something_measured():
    assert len(ROWS) >= 200
    assert len({row.source for row in ROWS}) >= 11
    for row in ROWS:
        validate(row.request)
        assert row.peaks or row.tokens_per_second


@pytest.mark.parametrize(
    ("source", "words", "quantity", "limit"),
    [
        (FMS, ("lora · 1 device",), "allocated", 0.05),
        (FMS, ("gptq · 1 device",), "allocated", 0.05),
        (FMS, ("nf4-dq · 1 device",), "allocated", 0.06),
        (FMS, ("qlora", "mixtral"), "allocated", 0.06),
        (FMS, ("lora · several",), "allocated", 0.09),
        (FMS, ("qlora", "several"), "allocated", 0.10),
        ("github:AnswerDotAI/fsdp_qlora", (", full",), "reserved", 0.10),
        ("github:meta-pytorch/torchtune", (), "allocated", 0.04),
        ("github:Lightning-AI/litgpt", ("lora · 1 device",), "allocated", 0.04),
        ("github:Lightning-AI/litgpt", ("qlora",), "allocated", 0.07),
        ("github:Anassbzdd/fitcheck", (), "allocated", 0.04),
        ("github:DaoyuanLi2816/can-i-finetune-this", (), "allocated", 0.03),
        ("github:huggingface/peft", (), "device", 0.10),
        ("github:pytorch/ao", (), "allocated", 0.05),
        ("github:QwenLM/Qwen", ("lora · 1 device",), "device", 0.08),
        ("github:axolotl-ai-cloud/axolotl", (), "reserved", 0.10),
    ],
)
def test_memory_of_sources_that_no_constant_was_fitted_on(found, source, words, quantity, limit):
    errors = [
        getattr(estimate.memory, f"{quantity}_bytes").expected / row.peaks[quantity] - 1
        for row, estimate in found
        if row.source == source and quantity in row.peaks and _named(row, words)
    ]

    assert errors
    assert statistics.mean(map(abs, errors)) <= limit


def _named(row: OtherRow, words: tuple[str, ...]) -> bool:
    return all(word in f"{row.group} {row.label}" for word in words)
