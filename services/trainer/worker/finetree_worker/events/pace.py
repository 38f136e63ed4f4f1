# SPDX-License-Identifier: Apache-2.0
"""How long the remaining steps of a run will take, from the steps that were timed and the tokens that remain."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from statistics import fmean, median

RECENT = 64
"""Steps that are looked back on."""
WARM_UP = 2
"""First steps that are left out as soon as there are others: they pay for allocations, caches and compiled kernels."""
ODD_DEVIATIONS = 5.0
"""Median absolute deviations beyond which a step's time is cut: something else had the machine for a moment."""


class Pace:
    """Times of steps against their tokens.

    A step takes a + b x tokens: the rows are drawn at random, so the steps to come may be longer or shorter than those
    seen, and how many tokens they hold is known. The mean of what was seen, moved by the slope to the tokens ahead
    (the regression estimator of survey sampling), needs no a, and is the mean itself where the slope cannot be told.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self._taken = 0

    def add(self, seconds: float, tokens: int) -> None:
        """Note a step."""
        self._taken += 1
        if self._taken == 2 * WARM_UP + 1:
            self._steps = deque(islice(self._steps, WARM_UP, None), maxlen=RECENT)
        self._steps.append((seconds, tokens))

    def remaining(self, steps: int, tokens: int) -> float:
        """Seconds of so many further steps with so many tokens in all; 0 before the first step."""
        if not self._steps or steps <= 0:
            return 0.0
        work = [float(held) for _, held in self._steps]
        slope = _slope([seconds for seconds, _ in self._steps], work)
        times = _without_bursts([seconds for seconds, _ in self._steps], work, slope)
        mean_time, mean_work = fmean(times), fmean(work)
        return max(0.0, steps * mean_time + slope * (tokens - steps * mean_work))


def _slope(times: Sequence[float], work: Sequence[float]) -> float:
    """Seconds per token by least squares; at least 0, at most what a time in proportion to the tokens would have."""
    mean_time, mean_work = fmean(times), fmean(work)
    variance = sum((held - mean_work) ** 2 for held in work)
    if len(times) < 2 * WARM_UP + 1 or variance == 0 or mean_work == 0:
        return 0.0 if mean_work == 0 else mean_time / mean_work
    products = zip(times, work, strict=True)
    slope = sum((seconds - mean_time) * (held - mean_work) for seconds, held in products) / variance
    return min(max(slope, 0.0), mean_time / mean_work)


def _without_bursts(times: Sequence[float], work: Sequence[float], slope: float) -> list[float]:
    """The times with those cut that lie far above what their tokens explain."""
    beyond = [seconds - slope * held for seconds, held in zip(times, work, strict=True)]
    middle = median(beyond)
    limit = middle + ODD_DEVIATIONS * max(median(abs(value - middle) for value in beyond), 0.02 * fmean(times))
    return [seconds - max(0.0, value - limit) for seconds, value in zip(times, beyond, strict=True)]
