# SPDX-License-Identifier: Apache-2.0
"""Wider intervals for cases that are far from anything measured."""

from finetree_estimator import constants as c
from finetree_estimator.correction import BY_RATE
from finetree_estimator.durations import Times
from finetree_estimator.intervals import Interval, made, total
from finetree_estimator.memory import Memory


def widen_memory(peaks: Memory, factor: float) -> Memory:
    """Peaks whose ends are `factor` times as far from the expected value, but never uselessly far."""
    host = _peak(peaks.host, factor) if peaks.host == peaks.device else peaks.host
    return Memory(
        # Written out, since there are nine of them in every answer.
        tuple(
            [
                (
                    kind,
                    made((max(0.0, mid - factor * (mid - low)), mid, mid + factor * (high - mid), sources, coverage)),
                )
                for kind, (low, mid, high, sources, coverage) in peaks.components
            ]
        ),
        _peak(peaks.allocated, factor),
        _peak(peaks.reserved, factor),
        _peak(peaks.device, factor),
        host,
    )


def widen_times(times: Times, factor: float) -> Times:
    """Times whose ends are farther away by the power `factor`: times err by factors, not by differences."""
    if factor == 1.0:
        return times
    # Loading, tokenising and saving depend on disk and core, however near the case is.
    phases = tuple(
        [(phase, _power(interval, factor) if phase in BY_RATE else interval) for phase, interval in times.phases]
    )
    return Times(
        phases,
        total([interval for _, interval in phases]),
        _power(times.step, factor),
        _power(times.tokens_per_second, factor),
        times.processed_tokens,
    )


def _peak(interval: Interval, factor: float) -> Interval:
    low, expected, high, sources, coverage = interval
    low = max(expected - factor * (expected - low), expected * (2 - c.WIDEST))
    high = min(expected + factor * (high - expected), expected * c.WIDEST)
    return made((low, expected, high, sources, coverage))


def _power(interval: Interval, factor: float) -> Interval:
    low, expected, high, sources, coverage = interval
    if low <= 0 or expected <= 0:
        return interval
    low, high = expected * (low / expected) ** factor, expected * (high / expected) ** factor
    return made((low, expected, high, sources, coverage))
