# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.estimate import estimate
from finetree_estimator.programs import TRANSFORMERS, variant

EMPTIED, EXPANDABLE = (
    variant(TRANSFORMERS, compiled=False, frozen_kept=True, cache=kind) for kind in ("emptied", "expandable")
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
