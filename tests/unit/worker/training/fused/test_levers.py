# SPDX-License-Identifier: Apache-2.0
"""Switches hold inside their block, and tell what decides the rounding."""

import pytest
from finetree_worker.training.fused.levers import Lever, in_force, is_on, only


def test_all_are_on_unless_a_block_says_otherwise() -> None:
    assert all(is_on(lever) for lever in Lever)
    with only([Lever.NORM]):
        assert [lever for lever in Lever if is_on(lever)] == [Lever.NORM]
        with only(Lever):
            assert all(is_on(lever) for lever in Lever)
    with pytest.raises(ValueError, match="broken"), only([]):
        raise ValueError("broken")
    assert all(is_on(lever) for lever in Lever)


def test_only_what_rounds_otherwise_on_the_device_is_told() -> None:
    assert "attention" in in_force("cpu")
    assert "attention" not in in_force("cuda")
    with only([]):
        assert not in_force("cpu")


def test_a_way_that_once_rounded_otherwise_has_another_name() -> None:
    """What an earlier release wrote, so that a run that it began is told apart."""
    assert not {"lora", "loss", "loss-2", "norm"} & set(in_force("cpu").split())
    with only([Lever.NORM]):
        assert in_force("cpu") == "norm-2"
