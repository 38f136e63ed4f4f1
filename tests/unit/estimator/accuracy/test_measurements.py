# SPDX-License-Identifier: Apache-2.0
"""The formulas against published runs of other people's programs (measurements.csv, each row with its source)."""

import csv
import statistics
from pathlib import Path

import pytest
from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.catalog.devices import known
from finetree_estimator.catalog.models import model
from finetree_estimator.memory import peak as memory
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import TRANSFORMERS
from finetree_estimator.run import Rows, Run
from finetree_estimator.timing import phases

GIB = 1024**3
ROWS = list(csv.DictReader(Path(__file__).with_name("measurements.csv").read_text(encoding="utf-8").splitlines()))
FULL_CARD = 0.92
"""Beyond this share of the card the allocator frees its cache and retries: peaks say little (reference, 3.5)."""
PEFT_LONGEST = 768
"""Tokens of the longest rows in PEFT's sweeps, which cut at 768: peaks of two target sets differ by what four rows of
600 tokens keep. The mean, 210, is published."""


def method(row):
    if row["method"] == "full":
        return Full()
    if row["method"] == "prefix":
        return Prefix(int(row["virtual_tokens"]))
    return Lora(int(row["rank"]), PRESETS[row["targets"]])


def run_of(row) -> Run:
    fixed = row["peak_kind"] == "device"  # the IBM sweeps pack every row to the limit
    length = int(row["sequence_length"]) if fixed else PEFT_LONGEST
    mean = length if fixed else 210
    micro = int(row["micro_batch"])
    return Run(
        shape=model(row["shape_of"]).shape,
        method=method(row),
        device=known(accelerator(row["accelerator"]), fp32=False),
        devices=1,
        micro_batch=micro,
        batch=micro * int(row["accumulation"] or 4),
        sequence_length=length,
        packing=False,
        rows=Rows(count=20_000, mean=mean, mean_square=mean * mean, longest=length, target_fraction=1.0),
        steps=1,
        weight_bytes=2,
        compute_bytes=2,
        master_bytes=2 if row["method"] == "full" else 4,
        optimizer="adamw",
        checkpointing=row["checkpointing"] == "true",
        loss="full-logits",
        program=TRANSFORMERS,
    )


def with_memory(*methods: str):
    limit = FULL_CARD * accelerator("a100-80gb").usable_bytes / GIB
    return [row for row in ROWS if row["method"] in methods and row["peak_gib"] and float(row["peak_gib"]) < limit]


def peak(row):
    estimate = memory.estimate(run_of(row))
    return estimate.device if row["peak_kind"] == "device" else estimate.reserved


def errors(rows):
    return [peak(row).expected / GIB / float(row["peak_gib"]) - 1 for row in rows]


def test_memory_of_lora_runs():
    found = errors(with_memory("lora"))

    assert len(found) >= 70
    assert statistics.mean(map(abs, found)) <= 0.03
    assert max(map(abs, found)) <= 0.06


@pytest.mark.parametrize(("name", "limit"), [("full", 0.06), ("prefix", 0.08)])
def test_memory_of_other_methods(name, limit):
    found = errors(with_memory(name))

    assert len(found) >= 3
    assert statistics.mean(map(abs, found)) <= limit


def test_the_memory_interval_covers_nine_of_ten_runs():
    rows = with_memory("lora", "full", "prefix")
    inside = [peak(row).low <= float(row["peak_gib"]) * GIB <= peak(row).high for row in rows]

    assert sum(inside) / len(inside) >= 0.9


def speed_errors(rows):
    found = []
    for row in rows:
        times = phases.estimate(run_of(row))
        found.append(times.tokens_per_second.expected / float(row["tokens_per_second"]) - 1)
    return found


@pytest.mark.parametrize("name", ["a100-80gb", "a100-80gb-pcie", "h100-pcie", "l40s"])
def test_speed_of_lora_runs(name):
    found = speed_errors([row for row in ROWS if row["method"] == "lora" and row["accelerator"] == name])

    assert len(found) >= 10
    assert statistics.median(map(abs, found)) <= 0.10


def test_speed_of_full_runs():
    found = speed_errors([row for row in ROWS if row["method"] == "full"])

    assert statistics.median(map(abs, found)) <= 0.15


def test_the_time_interval_covers_nine_of_ten_runs():
    inside = []
    for row in ROWS:
        speed = phases.estimate(run_of(row)).tokens_per_second
        inside.append(speed.low <= float(row["tokens_per_second"]) <= speed.high)

    assert sum(inside) / len(inside) >= 0.9
