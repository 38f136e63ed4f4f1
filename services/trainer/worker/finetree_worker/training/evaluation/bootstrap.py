# SPDX-License-Identifier: Apache-2.0
"""Paired bootstrap of metrics over rows, with BCa intervals.

The row is the unit that is drawn: tokens of one row depend on each other, rows are taken as independent. All models and
metrics share the same draws, so that what makes a row hard for all of them cancels in a difference (the paired
bootstrap: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 16; for language models Koehn
2004, Statistical Significance Tests for Machine Translation Evaluation). Intervals are bias-corrected and accelerated
(BCa: Efron 1987, Better Bootstrap Confidence Intervals, with the jackknife's acceleration, equation 6.6; Efron and
Tibshirani 1993, section 14.3): unlike percentiles they follow the skew of losses and of shares near 0 and 1.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
CONFIDENCE = 0.95
"""Coverage that intervals are made for."""
RESAMPLES = 10_000
"""Draws unless the task says otherwise: BCa needs the far quantiles, hence thousands (Efron 1987, section 9)."""
CHUNK = 1 << 22
"""Draws of rows that are held at once, 8 bytes each."""
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Ratio:
    """A metric as a function of sums over rows: f(sum of `over` / sum of `under`); both float64 (rows,).

    A mean over rows has ones below; a loss per token has the rows' tokens. `transform` is f, vectorized and monotone.
    """

    over: Floats
    under: Floats
    transform: Callable[[Floats], Floats] | None = None

    def of(self, over: Floats, under: Floats) -> Floats:
        """Return the metric of sums; not a number where nothing was drawn that counts."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = over / under
            return ratio if self.transform is None else self.transform(ratio)

    @property
    def value(self) -> float:
        """The metric over all rows."""
        return float(self.of(np.asarray(self.over.sum()), np.asarray(self.under.sum())))

    @property
    def leave_one_out(self) -> Floats:
        """The metric without each row in turn, (rows,)."""
        return self.of(self.over.sum() - self.over, self.under.sum() - self.under)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its interval; the ends are None where there is none: one row, or a value that is not finite."""

    value: float
    low: float | None
    high: float | None


class Bootstrap:
    """The draws of some metrics over the same rows, by name: `Bootstrap(metrics).interval("loss of a", "loss of b")`.

    Deterministic: the same metrics and seed give the same intervals.
    """

    def __init__(
        self,
        metrics: dict[str, Ratio],
        *,
        seed: int,
        resamples: int = RESAMPLES,
        stop_here: Callable[[], None] = lambda: None,
    ) -> None:
        """Draw. All metrics have the same number of rows, at least one; `stop_here` is called often and may raise."""
        self.metrics = metrics
        self._drawn = _draw(list(metrics.values()), seed=seed, resamples=resamples, stop_here=stop_here)
        self._names = {name: i for i, name in enumerate(metrics)}

    def interval(self, name: str, less: str = "") -> Interval:
        """Return the interval of a metric, or of its difference to another, `less`."""
        metric, other = self.metrics[name], self.metrics[less] if less else None
        value = metric.value - (other.value if other is not None else 0.0)
        if len(metric.over) < 2 or not math.isfinite(value):
            return Interval(value, None, None)
        drawn, left_out = self._drawn[self._names[name]], metric.leave_one_out
        if other is not None:
            drawn, left_out = drawn - self._drawn[self._names[less]], left_out - other.leave_one_out
        return Interval(value, *_bca(value, drawn, left_out))


def _draw(metrics: Sequence[Ratio], *, seed: int, resamples: int, stop_here: Callable[[], None]) -> Floats:
    """Return each metric of each resample, (metrics, resamples)."""
    rows = len(metrics[0].over)
    sums = np.stack([part for metric in metrics for part in (metric.over, metric.under)], axis=1)
    drawn = np.empty((resamples, sums.shape[1]))
    for start, counts in _counts(rows, seed=seed, resamples=resamples):
        stop_here()
        # A loss that is not finite spoils its own column alone, and has no interval.
        with np.errstate(invalid="ignore", over="ignore"):
            drawn[start : start + len(counts)] = counts @ sums
    return np.stack([metric.of(drawn[:, 2 * i], drawn[:, 2 * i + 1]) for i, metric in enumerate(metrics)])


def _counts(rows: int, *, seed: int, resamples: int) -> Iterator[tuple[int, Floats]]:
    """Yield how often each resample has each row, (some resamples, rows), with the first one's number."""
    random = np.random.Generator(np.random.PCG64(seed))
    step = max(1, CHUNK // rows)
    for start in range(0, resamples, step):
        number = min(step, resamples - start)
        chosen = random.integers(0, rows, size=(number, rows), dtype=np.int64)
        chosen += rows * np.arange(number)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=number * rows).reshape(number, rows)
        yield start, counts.astype(np.float64)


def _bca(value: float, drawn: Floats, left_out: Floats) -> tuple[float | None, float | None]:
    """Return the ends of the BCa interval; those of the percentiles where its corrections do not exist."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None, None
    if drawn.min() == drawn.max():
        return float(drawn[0]), float(drawn[0])
    # Half of the ties count as below: a share takes few values, and many draws equal the estimate.
    below = (float((drawn < value).mean()) + float((drawn <= value).mean())) / 2
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    if 0 < below < 1:
        bias, speed = _NORMAL.inv_cdf(below), _acceleration(left_out)
        tails = (_level(tails[0], bias, speed), _level(tails[1], bias, speed))
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)


def _level(tail: float, bias: float, speed: float) -> float:
    moved = bias + _NORMAL.inv_cdf(tail)
    return _NORMAL.cdf(bias + moved / (1 - speed * moved)) if speed * moved < 1 else tail


def _acceleration(left_out: Floats) -> float:
    """Return the skewness of the estimate's influence, by the jackknife; 0 where it has none."""
    left_out = left_out[np.isfinite(left_out)]
    around = left_out.mean() - left_out if len(left_out) else left_out
    spread = float((around**2).sum()) ** 1.5
    return float((around**3).sum()) / (6 * spread) if spread > 0 else 0.0
