# SPDX-License-Identifier: Apache-2.0
"""The benchmark's table of other people's runs: each row can be asked, and what was understood of them stays so."""

import statistics
import sys
from pathlib import Path

import pytest
from finetree_estimator.catalog import price_book
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.server.validation import validate

sys.path.append(str(Path(__file__).parents[4] / "benchmarks" / "estimator"))

from made_runs import MadeRuns
from other_rows import OtherRow, other_rows
from whole_runs import predicted, request, whole_runs

ROWS = other_rows()
FMS = "github:foundation-model-stack/fms-acceleration"


@pytest.fixture(scope="module")
def found():
    servicer = MadeRuns(Knowledge(price_book.packaged()))
    return [(row, servicer.estimate(row.request)) for row in ROWS]


def test_every_row_is_a_sound_request_with_something_measured():
    assert len(ROWS) >= 740
    assert len({row.source for row in ROWS}) >= 60
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
        ("github:Anassbzdd/fitcheck", (), "device", 0.06),
        ("github:DaoyuanLi2816/can-i-finetune-this", (), "allocated", 0.03),
        ("github:huggingface/peft", (), "device", 0.10),
        ("github:pytorch/ao", (), "allocated", 0.05),
        ("github:QwenLM/Qwen", ("lora · 1 device",), "device", 0.08),
        ("github:axolotl-ai-cloud/axolotl", (), "reserved", 0.10),
        ("github:hmmmx2/voidcode", ("qlora",), "allocated", 0.03),
        ("github:Deepanshu-k17/xmem-llm-adaptation", (), "allocated", 0.03),
        ("github:rasbt/LLMs-from-scratch", (), "reserved", 0.10),
        ("github:pytorch/pytorch.github.io", (), "device", 0.10),
        ("github:jscaldwell55/llama3-lora-bench", (), "allocated", 0.04),
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


@pytest.mark.parametrize(
    ("source", "words", "limit"),
    [
        (FMS, ("full",), 0.13),
        (FMS, ("lora · 1 device",), 0.08),
        (FMS, ("lora · several", "llama"), 0.08),
        (FMS, ("gptq",), 0.11),
        (FMS, ("nf4-dq · 1 device",), 0.11),
        ("github:AnswerDotAI/fsdp_qlora", ("nf4", ", full"), 0.14),
        ("github:meta-pytorch/torchtune", (), 0.13),
        ("github:QwenLM/Qwen", ("lora · 1 device", "14b"), 0.18),
    ],
)
def test_speeds_of_sources_that_no_constant_was_fitted_on(found, source, words, limit):
    errors = [
        estimate.time.tokens_per_second.expected / row.tokens_per_second - 1
        for row, estimate in found
        if row.source == source and row.tokens_per_second and _named(row, words)
    ]

    assert errors
    assert statistics.mean(map(abs, errors)) <= limit


def test_nine_of_ten_speeds_are_inside_intervals_that_say_something(found):
    rates = [(row, estimate.time.tokens_per_second) for row, estimate in found if row.tokens_per_second and row.steady]
    inside = [rate.low <= row.tokens_per_second <= rate.high for row, rate in rates]

    assert len(inside) >= 180
    assert sum(inside) / len(inside) >= 0.9
    assert statistics.mean(rate.high / rate.expected for _, rate in rates) < 1.5


def test_whole_runs_take_the_hours_that_are_foretold():
    servicer = MadeRuns(Knowledge(price_book.packaged()))
    rows = whole_runs()
    for row in rows:
        validate(request(row))
    runs = [predicted(row, servicer) for row in rows]
    unseen, fitted = ([one for one in runs if one["group"] == name] for name in ("unseen", "fitted"))

    assert len({one["source"] for one in unseen}) >= 5
    assert sum(one["inside"] for one in unseen) / len(unseen) >= 0.8
    assert statistics.median(abs(one["error"]) for one in unseen) <= 0.21
    assert max(abs(one["error"]) for one in fitted) <= 0.2


def _named(row: OtherRow, words: tuple[str, ...]) -> bool:
    return all(word in f"{row.group} {row.label}" for word in words)
