# SPDX-License-Identifier: Apache-2.0
"""Memory that an allocator keeps and nobody can use, where rows have many lengths."""

import random
import statistics
from dataclasses import replace

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import training_pb2
from finetree_estimator import constants as c
from finetree_estimator.catalog import price_book
from finetree_estimator.estimate import fit_of
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.memory.fragmentation import left_over, record_sum
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.peak import Component
from finetree_estimator.memory.step_peak import kept_activations
from finetree_estimator.methods.full import Full
from finetree_estimator.programs import FINETREE, TRANSFORMERS, variant
from finetree_estimator.run import LengthRange
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from google.protobuf import json_format

GIB = 1024**3
EMPTIED, EXPANDABLE = (
    variant(TRANSFORMERS, compiled=False, frozen_kept=True, cache=kind) for kind in ("emptied", "expandable")
)


def _drawn(
    length_ranges: tuple[LengthRange, ...], micro_batch: int, count: int, step: float, draws: random.Random
) -> float:
    longest, total = 0.0, 0.0
    shares = [stretch.share for stretch in length_ranges]
    for _ in range(count):
        picked = draws.choices(length_ranges, shares, k=micro_batch)
        length = max(draws.uniform(stretch.shortest, stretch.longest) for stretch in picked)
        if length >= longest + step or not longest:
            longest, total = length, total + length
    return total / length_ranges[-1].longest


@pytest.mark.parametrize(
    ("length_ranges", "micro_batch", "count", "step"),
    [
        ((LengthRange(1, 1000, 1.0),), 1, 200, 1),
        ((LengthRange(1, 1000, 1.0),), 1, 900, 50),
        ((LengthRange(1, 500, 0.9), LengthRange(501, 1000, 0.1)), 1, 200, 1),
        ((LengthRange(1, 500, 0.7), LengthRange(1000, 1000, 0.3)), 1, 200, 1),
        ((LengthRange(1, 500, 0.5), LengthRange(501, 1000, 0.5)), 4, 200, 1),
        ((LengthRange(700, 1000, 1.0),), 1, 10, 1),
    ],
    ids=["even", "coarse", "rare long ones", "cut ones", "padded to the longest of four", "few"],
)
def test_the_sum_of_records_is_that_of_random_orders(length_ranges, micro_batch, count, step):
    draws = random.Random(11)
    drawn = statistics.mean(_drawn(length_ranges, micro_batch, count, step, draws) for _ in range(40))
    assert record_sum(length_ranges, micro_batch=micro_batch, count=count, step=step) == pytest.approx(drawn, rel=0.15)


def test_equal_rows_are_a_record_once():
    assert record_sum((LengthRange(512, 512, 1.0),), micro_batch=4, count=1000, step=1) == 1
    assert record_sum((LengthRange(1, 900, 1.0),), micro_batch=1, count=1, step=1) == 1


def test_what_is_left_over_is_logits_of_shorter_rows(mixed):
    step = c.SEGMENT_STEP / (4 * mixed.shape.vocab)
    again = record_sum(mixed.rows.length_ranges, micro_batch=1, count=16 * 63, step=step) - 1
    logits = 12.0 * mixed.shape.vocab * 2048
    adapters = model_states(mixed).optimizer_states + model_states(mixed).gradients
    assert left_over(mixed).expected == pytest.approx(c.DRAW * (c.RENEWED_LOGITS * logits * again - adapters))
    assert 3 < again < 7


@pytest.mark.parametrize(
    "changes",
    [
        {"packing": True},
        {"program": FINETREE},
        {"program": EXPANDABLE},
        {"rows": None},
        {"loss": "chunked"},
    ],
    ids=["packed", "this suite's worker", "expandable", "unknown rows", "chunks"],
)
def test_nothing_is_left_over(mixed, changes):
    run = replace(mixed, **changes)
    assert left_over(run) is None
    assert fit_of(run)[0].device == fit_of(run)[1].peak


@pytest.mark.parametrize("lengths", [(), (LengthRange(2048, 2048, 1.0),)], ids=["no histogram", "equal rows"])
def test_nothing_is_left_over_of_rows_whose_lengths_do_not_differ(mixed, lengths):
    run = replace(mixed, rows=replace(mixed.rows, length_ranges=lengths))
    assert left_over(run) is None
    assert fit_of(run)[0].device == fit_of(run)[1].peak


def test_emptying_the_cache_each_step_leaves_only_a_step_s(mixed):
    emptied, kept = left_over(replace(mixed, program=EMPTIED)), left_over(mixed)
    assert 0 < emptied.expected < 0.7 * kept.expected
    assert left_over(replace(mixed, program=EMPTIED, batch=1)) is None


def test_kept_activations_leave_blocks_over_as_well(mixed):
    small_vocabulary = replace(mixed, shape=replace(mixed.shape, vocab=1000))
    assert left_over(small_vocabulary) is None  # the loss is not the fullest moment
    kept = replace(small_vocabulary, checkpointing=False)
    share = left_over(kept).expected / (kept_activations(kept, layer_activations(kept)) * 2048)
    assert share == pytest.approx(0.7, abs=0.3)
    # Short rows are cut from segments that all share.
    assert left_over(replace(kept, sequence_length=512, rows=replace(mixed.rows, longest=512))) is None


def test_optimizer_states_come_into_what_the_first_step_leaves_over(mixed):
    tuned = replace(mixed, method=Full(), master_bytes=2)
    step = c.SEGMENT_STEP / (4 * mixed.shape.vocab)
    sixteen, two = (record_sum(mixed.rows.length_ranges, micro_batch=1, count=count, step=step) for count in (16, 2))
    logits = 12.0 * mixed.shape.vocab * 2048

    # The same rows in steps of two micro-batches: fewer blocks are left over when states are made.
    shorter = left_over(replace(tuned, batch=2, steps=8 * 63)).expected
    assert shorter - left_over(tuned).expected == pytest.approx(c.DRAW * c.RENEWED_LOGITS * logits * (sixteen - two))


def test_the_components_hold_it_and_the_live_tensors_do_not_grow(mixed):
    plain, peaks = fit_of(replace(mixed, program=EXPANDABLE))[0], fit_of(mixed)[0]
    more = left_over(mixed).expected
    assert peaks.allocated == plain.allocated
    assert peaks.reserved.expected == pytest.approx(plain.reserved.expected + more)
    assert sum(size.expected for _, size in peaks.components) == pytest.approx(peaks.device.expected)
    assert dict(peaks.components)[Component.FRAGMENTATION].expected > more
    for peak in (peaks.reserved, peaks.device):
        assert peak.low <= peak.expected <= peak.high <= c.WIDEST * peak.expected


def test_the_verdict_goes_by_what_must_be_there(mixed, gpu):
    alone = fit_of(replace(mixed, program=EXPANDABLE))[0].device
    usable = int(alone.high + 0.3 * left_over(mixed).expected)
    peaks, fit = fit_of(replace(mixed, device=replace(gpu, usable_bytes=usable)))
    assert fit.verdict is Verdict.FITS
    assert fit.peak == alone
    # The cache fills the device and no more.
    assert peaks.device.expected <= peaks.device.high <= usable


def test_a_device_of_any_size_is_never_overfilled_by_cache(mixed, gpu):
    for usable in range(8, 60, 4):
        device = replace(gpu, usable_bytes=usable * GIB)
        peaks, fit = fit_of(replace(mixed, device=device))
        assert peaks.device.expected <= max(fit.peak.expected, device.usable_bytes)
        assert peaks.device.high <= max(c.WIDEST * fit.peak.expected, fit.peak.high, device.usable_bytes) + 1
        assert fit == fit_of(replace(mixed, device=device, program=EXPANDABLE))[1]


def test_searches_find_the_same_whatever_the_cache_holds():
    servicer = EstimatorServicer(Knowledge(price_book.packaged()))
    request = json_format.ParseDict(
        {
            "spec": {
                "model": {"name": "qwen2.5-7b"},
                "lora": {},
                "training": {"sequence_length": 2048, "packing": "PACKING_OFF"},
                "loss_kernel": "LOSS_KERNEL_FULL_LOGITS",
                "hardware": {"accelerator": "h100"},
                "program": {"program": "TRAINING_PROGRAM_TRANSFORMERS"},
            },
            "dataset_profile": {"examples": 5000, "token_lengths": [{"upper_bound": 2048, "count": 5000}]},
            "view": "ESTIMATE_VIEW_FULL",
        },
        estimate_pb2.EstimateRunRequest(),
    )
    kept = servicer.estimate(request)
    request.spec.program.allocator_cache = training_pb2.ALLOCATOR_CACHE_EXPANDABLE
    expanding = servicer.estimate(request)

    assert kept.memory.reserved_bytes.expected > 1.2 * expanding.memory.reserved_bytes.expected
    assert kept.fit == expanding.fit
    assert kept.largest == expanding.largest
    assert [(one.accelerator, one.count) for one in kept.smallest_hardware] == [
        (one.accelerator, one.count) for one in expanding.smallest_hardware
    ]
    assert kept.offers
    assert kept.offers == expanding.offers
