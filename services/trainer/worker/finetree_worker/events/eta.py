# SPDX-License-Identifier: Apache-2.0
"""Remaining time of a run: its steps, from those that were timed, and its evaluations and checkpoints."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, median, quantiles

from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1 import evidence_pb2

from finetree_worker.plan import CheckpointPlan, EvaluationPlan, Metric, Price

RECENT_STEPS = 64
"""Number of recent steps that forecasts rest on."""
WARM_UP = 2
"""First steps that are left out once there are enough others: allocations, caches and compilation slow them."""
ODD_DEVIATIONS = 5.0
"""Median absolute deviations beyond which a step's time is cut: another process disturbed it."""
MIN_STEPS = 3
"""Steps before anything is forecast."""
COVERAGE = 0.8
"""Share of steps between the first and the last decile, which span the forecast's interval."""
FORWARD_SHARE = 1 / 3
"""Share of a training step's time that its forward pass takes; an evaluation not timed yet is forecast with it."""
ANSWER_SPREAD = 1.5
"""Longest answer of a batch in units of the mean answer: a batch takes as long as its longest answer."""
ARTIFACT_SHARE = 1 / 3
"""Share of the weights in a checkpoint, which also holds two moments of each."""
FORECASTS = 10
"""Forecasts in a run: one for each tenth of its steps."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Numbers of training and held-out rows, and the training rows' tokens: all of them, and the learned ones."""

    train: int = 0
    held_out: int = 0
    tokens: int = 0
    targets: int = 0


class Eta:
    """Remaining seconds of a run, from times measured while it runs."""

    def __init__(self, evaluation: EvaluationPlan, checkpoints: CheckpointPlan) -> None:
        self._evaluation, self._checkpoints = evaluation, checkpoints
        self._pace = Pace()
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._rows = Rows()
        self._loss_seconds: float | None = None
        self._before_seconds: float | None = None
        self._between_seconds: float | None = None
        self._save_seconds = 0.0

    def rows(self, rows: Rows) -> None:
        """Note the numbers of rows."""
        self._rows = rows

    def step(self, seconds: float, tokens: int) -> None:
        """Note an optimizer step's time and tokens."""
        self._pace.add(seconds, tokens)
        self._recent.append(seconds)

    def forget_before(self, steps: int) -> None:
        """Keep the last `steps` alone: what the others took says nothing of those to come any more."""
        self._pace.forget_before(steps)
        self._recent = deque(list(self._recent)[-steps:], maxlen=RECENT_STEPS)

    def evaluation(self, step: int, seconds: float, *, questions: int) -> None:
        """Note an evaluation's time: of the loss alone, or of answers too, before (step 0) or during training."""
        if questions == 0:
            self._loss_seconds = seconds
        elif step == 0:
            self._before_seconds = seconds
        else:
            self._between_seconds = seconds

    def checkpoint(self, seconds: float) -> None:
        """Note the time that saving a checkpoint took."""
        self._save_seconds = seconds

    def remaining(self, step: int, total: int, *, tokens: int, rate: float) -> evidence_pb2.Interval | None:
        """Return the remaining seconds after `step` of `total`; None before there are enough steps.

        `tokens` are those of the remaining steps, `rate` is in tokens per second. The interval spreads steps like the
        recent ones, and everything else from half to twice its expectation.
        """
        if len(self._recent) < MIN_STEPS:
            return None
        deciles, middle = quantiles(self._recent, n=10, method="inclusive"), median(self._recent)
        steps = self._pace.remaining(total - step, tokens)
        others = self.others(step, total, 1 / rate if rate > 0 else 0.0)
        scale = steps / middle if middle > 0 else 0.0
        source = {"source": "this run", "locator": "deciles of recent step times"}
        return evidence_pb2.Interval(
            low=min(deciles[0] * scale, steps) + others / 2,
            expected=steps + others,
            high=max(deciles[-1] * scale, steps) + others * 2,
            coverage=COVERAGE,
            provenance=[evidence_pb2.Provenance(kind=evidence_pb2.PROVENANCE_KIND_MEASURED, **source)],
        )

    def others(self, step: int, total: int, seconds_per_token: float) -> float:
        """Return the remaining seconds of evaluations, checkpoints and saving."""
        loss = self._loss_seconds
        if loss is None:
            loss = self._held_out_tokens() * seconds_per_token * FORWARD_SHARE
        evaluations = _times(self._evaluation.every_steps, step, total) if self._rows.held_out else 0
        saves = _times(self._checkpoints.every_steps, step, total) + ARTIFACT_SHARE
        after = self._after(loss)
        each = after if self._evaluation.best_by is Metric.EXACT_MATCH else loss
        return evaluations * each + saves * self._save_seconds + after

    def _after(self, loss: float) -> float:
        """Return the seconds of the last evaluation: as one during training, or the first with shorter answers."""
        if not (self._evaluation.metrics and self._rows.held_out):
            return 0.0
        if self._between_seconds is not None:
            return self._between_seconds
        if self._before_seconds is None or not self._rows.train:
            return loss
        answer = ANSWER_SPREAD * self._rows.targets / self._rows.train + 1
        limit = self._evaluation.max_new_tokens
        return loss + max(0.0, self._before_seconds - loss) * min(1.0, answer / limit)

    def _held_out_tokens(self) -> float:
        return self._rows.held_out * self._rows.tokens / self._rows.train if self._rows.train else 0.0


class Pace:
    """Times of steps against their tokens.

    A step takes a + b x tokens: rows are drawn at random, so the remaining steps may be longer or shorter than those
    seen, and their number of tokens is known. The mean time, moved by the slope to the remaining tokens (the regression
    estimator of survey sampling), needs no a, and is the mean itself where the slope cannot be determined.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=RECENT_STEPS)
        self._taken = 0

    def add(self, seconds: float, tokens: int) -> None:
        """Note a step's seconds and tokens."""
        self._taken += 1
        if self._taken == 2 * WARM_UP + 1:
            self._steps = deque(islice(self._steps, WARM_UP, None), maxlen=RECENT_STEPS)
        self._steps.append((seconds, tokens))

    def forget_before(self, steps: int) -> None:
        """Keep the last `steps` alone."""
        self._steps = deque(list(self._steps)[-steps:], maxlen=RECENT_STEPS)

    def remaining(self, steps: int, tokens: int) -> float:
        """Return the seconds of `steps` further steps with `tokens` in all; 0 before the first step."""
        if not self._steps or steps <= 0:
            return 0.0
        work = [float(held) for _, held in self._steps]
        slope = _slope([seconds for seconds, _ in self._steps], work)
        times = _without_bursts([seconds for seconds, _ in self._steps], work, slope)
        mean_time, mean_work = fmean(times), fmean(work)
        return max(0.0, steps * mean_time + slope * (tokens - steps * mean_work))


def _slope(times: Sequence[float], work: Sequence[float]) -> float:
    """Return the seconds per token by least squares, from 0 to those of a time in proportion to the tokens."""
    mean_time, mean_work = fmean(times), fmean(work)
    variance = sum((held - mean_work) ** 2 for held in work)
    if len(times) < 2 * WARM_UP + 1 or variance == 0 or mean_work == 0:
        return 0.0 if mean_work == 0 else mean_time / mean_work
    products = zip(times, work, strict=True)
    slope = sum((seconds - mean_time) * (held - mean_work) for seconds, held in products) / variance
    return min(max(slope, 0.0), mean_time / mean_work)


def _without_bursts(times: Sequence[float], work: Sequence[float], slope: float) -> list[float]:
    """Return the times, cut where they lie far above what their tokens explain."""
    beyond = [seconds - slope * held for seconds, held in zip(times, work, strict=True)]
    middle = median(beyond)
    limit = middle + ODD_DEVIATIONS * max(median(abs(value - middle) for value in beyond), 0.02 * fmean(times))
    return [seconds - max(0.0, value - limit) for seconds, value in zip(times, beyond, strict=True)]


def _times(every: int, step: int, total: int) -> int:
    """Return how often an action of every `every` steps, but not of the last one, follows after `step`."""
    return max(0, (total - 1) // every - step // every) if every > 0 else 0


class Forecasts:
    """Forecasts of an attempt, one for each tenth of its steps."""

    def __init__(self, price: Price | None) -> None:
        self._price = price
        self._next = 0

    def renew(self) -> None:
        """Have the next step forecast anew, whichever it is."""
        self._next = 0

    def after(self, step: event_pb2.StepMetrics, elapsed: float) -> event_pb2.Forecast | None:
        """Return the forecast that is due after a step, `elapsed` seconds after the attempt began; None if none is."""
        tenth = step.step * FORECASTS // max(1, step.total_steps)
        if not step.HasField("eta_seconds") or tenth < self._next or step.step >= step.total_steps:
            return None
        self._next = tenth + 1
        forecast = event_pb2.Forecast(eta_seconds=step.eta_seconds, total_seconds=step.eta_seconds)
        for bound in ("low", "expected", "high"):
            setattr(forecast.total_seconds, bound, elapsed + getattr(step.eta_seconds, bound))
        if self._price is not None:
            forecast.cost.CopyFrom(self._price.of_interval(forecast.total_seconds))
        return forecast
