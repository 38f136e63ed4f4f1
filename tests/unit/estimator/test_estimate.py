# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.estimate import estimate
from finetree_estimator.programs import TRANSFORMERS, variant
from finetree_estimator.run import LengthRange, Rows

MIXED = Rows(
    count=1000,
    mean=1050.0,
    mean_square=1.4e6,
    longest=2048,
    target_fraction=1.0,
    length_ranges=(LengthRange(52, 1000, 0.5), LengthRange(1001, 2048, 0.5)),
)
EMPTIED, EXPANDABLE = (
    variant(TRANSFORMERS, compiled=False, frozen_kept=True, cache=kind) for kind in ("emptied", "expandable")
)


@pytest.fixture
def mixed(make_run):
    """A run of transformers' Trainer on rows of 52 to 2,048 tokens, one at a time, in windows of sixteen."""
    return make_run(
        program=TRANSFORMERS,
        micro_batch=1,
        sequence_length=2048,
        rows=MIXED,
        loss="full-logits",
        checkpointing=True,
        steps=63,
    )


@pytest.mark.parametrize(("memory", "fits"), [(80 * 2**30, True), (8 * 2**30, False), (0, True)])
def test_a_run_that_does_not_fit_has_no_hours_and_no_price(make_run, gpu, memory, fits):
    found = estimate(make_run(device=replace(gpu, usable_bytes=memory)))
    assert found.times is not None
    assert [found.duration is not None, found.price is not None] == [fits, fits]
    assert [remark.code == "RUN_DOES_NOT_FIT" for remark in found.remarks].count(True) == (not fits)


@pytest.mark.parametrize(("devices", "sharding", "said"), [(1, "replicated", 0), (2, "replicated", 1), (2, "full", 0)])
def test_several_devices_without_shards_are_said_to_hold_copies(make_run, devices, sharding, said):
    found = estimate(make_run(devices=devices, sharding=sharding))
    assert [remark.code for remark in found.remarks].count("DEVICES_HOLD_COPIES") == said


def test_the_remedy_is_told(mixed):
    told, silent = estimate(mixed).remarks, estimate(replace(mixed, program=EXPANDABLE)).remarks
    assert ["expandable_segments:True" in remark.message for remark in told if remark.code == "FRAGMENTATION"] == [True]
    assert "FRAGMENTATION" not in {remark.code for remark in silent}
