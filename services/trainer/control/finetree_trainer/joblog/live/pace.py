# SPDX-License-Identifier: Apache-2.0
"""When watchers are woken: at once while the event loop has time, the later the more of it they take.

A message to a watcher costs about the same with one event in it or with a hundred. So where waking all watchers takes
long, or the loop is late, they are woken less often and get larger batches: waking them takes at most a tenth of the
loop's time, as long as that is possible within `LONGEST`.
"""

import asyncio

from finetree_trainer.joblog.live.tail import Tail

SHARE = 0.1
"""Share of the loop's time that waking the watchers, and beginning to send to them, may take."""

LONGEST = 0.15
"""Longest time between two wake-ups while there are events, seconds. A worker sends its events every 50 ms; with both,
and the time to store and to send them, an event is seen within 250 ms."""

SMOOTHING = 0.25
"""Weight of the newest measurement."""


class Pace:
    """Wakes the watchers of all jobs of a loop together, so that it knows what all of them cost."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: set[Tail] = set()
        self._scheduled = False
        self._woken = float("-inf")
        self._spent = 0.0

    @property
    def interval(self) -> float:
        """Seconds between two wake-ups."""
        return min(LONGEST, self._spent / SHARE)

    def wake(self, tail: Tail) -> None:
        """Have the watchers of a job woken when it is time."""
        self._due.add(tail)
        if self._scheduled:
            return
        self._scheduled = True
        due = self._woken + self.interval
        if due <= self._loop.time():
            self._loop.call_soon(self._wake, self._loop.time())
        else:
            self._loop.call_at(due, self._wake, due)

    def _wake(self, due: float) -> None:
        self._scheduled = False
        self._woken = self._loop.time()
        tails, self._due = self._due, set()
        for tail in tails:
            tail.announce()
        # Runs once all that were woken have begun to send: what it measures is their time, and how late the loop was.
        self._loop.call_soon(self._measure, due)

    def _measure(self, due: float) -> None:
        self._spent += SMOOTHING * (self._loop.time() - due - self._spent)
