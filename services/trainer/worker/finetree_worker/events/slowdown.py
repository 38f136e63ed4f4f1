# SPDX-License-Identifier: Apache-2.0
"""Notices steps that take longer than they should, and says what was measured to be the cause."""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median

from finetree_api.trainer.v1 import event_pb2

from finetree_worker.events.machine_usage import Shares, Usage
from finetree_worker.plan import Expected

CODE = "SLOWER_THAN_EXPECTED"
"""Code of the alert."""
WARM_UP = 2
"""First steps, which allocate and compile, are not judged."""
WINDOW = 8
"""Steps whose median is judged: the first alert comes within ten steps."""
SLOW = 1.5
"""Times the upper end of the estimate, or the best window of the run, from which on steps are slow."""
MOST_ALERTS = 3
"""Alerts of an attempt: a machine that is slow again and again needs no more."""
SHARE = 0.1
"""Share of the time from which on something counts as a cause."""
FREE = 0.85
"""Share of its threads that a process has which nobody disturbs; the rest is waiting for one another."""
KERNEL = 0.3
"""Share of its own time in the kernel from which on page faults are the cause: in calm runs it is 1 to 5 %."""
PAGES = 100.0
"""Swapped pages or major faults a second, 400 KB, from which on memory is the cause."""
RATE = 0.7
"""Share of the rate that an estimate started from, below which the processor itself is slower."""
LONGER = 1.3
"""Times the run's mean tokens of a step from which on the rows are the cause."""


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Steps that take too long: their median seconds, what they were expected to take, and the causes, in words."""

    seconds: float
    expected: str
    causes: tuple[str, ...]

    def alert(self) -> event_pb2.Alert:
        """Return the event that tells it."""
        cause = "; ".join(self.causes) or "nothing that was measured explains it"
        text = f"Steps take {self.seconds:.3g} s, {self.expected}: {cause}."
        text += f" The forecast is made anew, from the last {WINDOW} steps."
        return event_pb2.Alert(code=CODE, message=text)


class SlowdownWatch:
    """Judges the steps of an attempt, one window after another.

    `mean_tokens` are those of a step in the run's mean, `measure_rates` measures the processor's matrix rates anew
    (FLOP/s, forward and backward) and is called only where nothing else explains a slow window; None on an accelerator.
    """

    def __init__(
        self,
        expected: Expected,
        *,
        threads: int,
        mean_tokens: float,
        measure_rates: Callable[[], tuple[float, float]] | None,
        usage: Callable[[], Usage] = Usage.now,
    ) -> None:
        self._expected, self._threads, self._mean_tokens = expected, threads, mean_tokens
        self._measure_rates, self._usage = measure_rates, usage
        self._steps: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._taken, self._alerts, self._slow = 0, 0, False
        self._best = float("inf")
        self._began = usage()

    def step(self, seconds: float, tokens: int) -> Slowdown | None:
        """Note a step; return what is to be said after the last one of a window that has become slow."""
        self._taken += 1
        if self._taken <= WARM_UP:
            self._began = self._usage()
            return None
        self._steps.append((seconds, tokens))
        if (self._taken - WARM_UP) % WINDOW:
            return None
        found = self._judged()
        self._began = self._usage()
        return found

    def _judged(self) -> Slowdown | None:
        seconds = median(seconds for seconds, _ in self._steps)
        interval, best = self._expected.step_seconds, self._best
        self._best = min(best, seconds)
        against = min(interval.high if interval is not None else float("inf"), best)
        was, self._slow = self._slow, seconds > SLOW * against
        if not self._slow or was or self._alerts >= MOST_ALERTS:
            return None
        self._alerts += 1
        if against == best or interval is None:
            expected = f"and {best:.3g} s before"
        else:
            expected = f"estimated were {interval.expected:.3g} s ({interval.low:.3g} to {interval.high:.3g})"
        shares = self._usage().since(self._began, cores=os.cpu_count() or 1, threads=self._threads)
        causes = [*self._row_causes(), *causes_of(shares, self._threads)]
        if not causes and self._measure_rates is not None:
            causes = rate_causes(self._measure_rates(), (self._expected.forward_rate, self._expected.backward_rate))
        return Slowdown(seconds, expected, tuple(causes))

    def _row_causes(self) -> list[str]:
        tokens = fmean(tokens for _, tokens in self._steps)
        if not self._mean_tokens or tokens < LONGER * self._mean_tokens:
            return []
        return [f"their rows are {tokens / self._mean_tokens:.2g} times as long as the run's mean"]


def causes_of(shares: Shares, threads: int) -> list[str]:
    """Say what kept a process from computing, the most certain first; `threads` are those that it may use."""
    found = []
    if shares.throttled >= SHARE:
        found.append(f"the container's CPU limit held its threads back for {shares.throttled:.0%} of the time")
    if shares.heated >= SHARE:
        found.append(f"the processor was too hot for its full clock for {shares.heated:.0%} of the time")
    if shares.stolen >= SHARE:
        found.append(f"the hypervisor gave {shares.stolen:.0%} of the processor to other machines")
    if shares.swapped_pages >= PAGES:
        pages = f"{shares.swapped_pages:.0f} pages a second"
        found.append(f"memory is swapped ({pages}): free memory, or lower the micro-batch")
    elif shares.major_faults >= PAGES:
        found.append(f"pages are read from disk ({shares.major_faults:.0f} a second): memory is short")
    elif shares.starved >= SHARE:
        found.append(f"memory is short: everything waited for it for {shares.starved:.0%} of the time")
    if shares.own < FREE and shares.others >= SHARE:
        text = f"other processes took {shares.others:.0%} of the machine, and this one had {shares.own:.0%} of its "
        found.append(text + f"{threads} threads")
    elif shares.waited >= SHARE and shares.throttled < SHARE and shares.stolen < SHARE:
        # A container may not show what others use, and more threads than processors disturb each other.
        found.append(f"its threads waited for a processor for {shares.waited:.0%} of the time")
    if shares.kernel >= KERNEL:
        faults = f"{shares.minor_faults:,.0f} page faults a second"
        found.append(f"{shares.kernel:.0%} of its own time went into the kernel, with {faults}")
    return found


def rate_causes(now: tuple[float, float], before: tuple[float, float]) -> list[str]:
    """Say whether the processor itself is slower than the rates (FLOP/s) that the estimate started from.

    Both are those of the forward and of the backward layout; of `before`, 0 is unknown and says nothing.
    """
    share = min((rate / old for rate, old in zip(now, before, strict=True) if old > 0), default=1.0)
    if share >= RATE:
        return []
    return [f"matrix products run at {share:.0%} of the rate that estimates start from: the processor is slower now"]
