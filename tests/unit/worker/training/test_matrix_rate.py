# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions say what they return by their names
import itertools

import pytest
import torch
from finetree_worker.training import matrix_rate

# What this machine's processor makes of a format is no matter of these tests: bfloat16 may be fast or emulated.


def test_rates_are_measured_with_the_threads_asked_for_and_the_others_are_given_back():
    before = torch.get_num_threads()
    forward, backward = matrix_rate.rate_of(torch.float32, 1, seconds=0.05)
    assert min(forward, backward) > 1e8
    assert torch.get_num_threads() == before


def test_every_product_has_its_turn_in_both_layouts(monkeypatch):
    """Seconds of this clock: those of the layout whose product was computed last."""
    now, costs = [0.0], {"forward": 0.004, "backward": 0.016}

    def costing(name):
        multiply = getattr(matrix_rate, f"_{name}")

        def call(rows, weight):
            share = len(rows) / 512 * (1 if rows.dtype is torch.float32 else 2)
            now[0] += costs[name] * share
            return multiply(rows[:1], weight)

        return call

    monkeypatch.setattr(matrix_rate, "_forward", costing("forward"))
    monkeypatch.setattr(matrix_rate, "_backward", costing("backward"))
    found = matrix_rate.measure(1, seconds=1.0, clock=lambda: now[0])

    flops = 2.0 * 512 * 1024 * 1024
    assert found.fp32 == pytest.approx((flops / 0.004, flops / 0.016))
    assert found.bf16 == pytest.approx((flops / 0.008, flops / 0.032))
    assert now[0] < 1.3


def test_a_product_that_would_take_the_others_turns_is_measured_with_few_rows(monkeypatch):
    now, seen = itertools.count(), []

    def emulated(rows, weight):
        seen.append(len(rows))
        return rows[:1] @ weight

    monkeypatch.setattr(matrix_rate, "_backward", emulated)
    # Each look at this clock is a second later: every product takes one, hence all are long for ten.
    rates = matrix_rate._rates([torch.float32], 1, seconds=10.0, clock=lambda: float(next(now)))
    assert set(seen) == {32}
    assert rates[0].backward == pytest.approx(2.0 * 32 * 1024 * 1024)
