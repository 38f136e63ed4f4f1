# SPDX-License-Identifier: Apache-2.0
"""Wider intervals for cases that are far from anything measured."""

from dataclasses import replace

from finetree_estimator import constants as c
from finetree_estimator.correction import BY_RATE
from finetree_estimator.durations import Times
from finetree_estimator.intervals import Interval, total
from finetree_estimator.memory import Memory


def widen_memory(peaks: Memory, factor: float) -> Memory:
    """Peaks whose ends are `factor` times as far from the expected value, but never uselessly far."""
    host = _peak(peaks.host, factor) if peaks.host == peaks.device else peaks.host
    return replace(
        peaks,
        components=tuple((kind, _spread(interval, factor)) for kind, interval in peaks.components),
        allocated=_peak(peaks.allocated, factor),
        reserved=_peak(peaks.reserved, factor),
        device=_peak(peaks.device, factor),
        host=host,
    )


def widen_times(times: Times, factor: float) -> Times:
    """Times whose ends are farther away by the power `factor`: times err by factors, not by differences."""
    if factor == 1.0:
        return times
    # Loading, tokenising and saving depend on disk and core, however near the case is.
    phases = tuple(
        (phase, _power(interval, factor) if phase in BY_RATE else interval) for phase, interval in times.phases
    )
    return replace(
        times,
        phases=phases,
        total=total(interval for _, interval in phases),
        step=_power(times.step, factor),
        tokens_per_second=_power(times.tokens_per_second, factor),
    )


def _spread(interval: Interval, factor: float) -> Interval:
    expected = interval.expected
    low, high = expected - factor * (expected - interval.low), expected + factor * (interval.high - expected)
    return Interval(max(0.0, low), expected, high, interval.sources, interval.coverage)


def _peak(interval: Interval, factor: float) -> Interval:
    expected = interval.expected
    low = max(expected - factor * (expected - interval.low), expected * (2 - c.WIDEST))
    high = min(expected + factor * (interval.high - expected), expected * c.WIDEST)
    return Interval(low, expected, high, interval.sources, interval.coverage)


def _power(interval: Interval, factor: float) -> Interval:
    expected = interval.expected
    if interval.low <= 0 or expected <= 0:
        return interval
    low, high = expected * (interval.low / expected) ** factor, expected * (interval.high / expected) ** factor
    return Interval(low, expected, high, interval.sources, interval.coverage)
