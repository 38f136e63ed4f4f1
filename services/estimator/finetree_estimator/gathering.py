# SPDX-License-Identifier: Apache-2.0
"""Calls that crowd, gathered into groups that are answered abreast (docs/decisions/0015).

A server that is asked by many at once is handed their calls one by one. Answering each as it comes leaves the
processor's caches to gRPC and the kernel between any two; a group of them costs two fifths less a call. Where calls
come singly, none waits for another.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

MOST = 32
"""Calls of the largest group, as many as rows of a batch: some 5 ms of work, for which all others wait."""
FEWEST = 4
"""Calls of the smallest group that is waited for: two or three gain less than waiting for them takes."""
IDLE_SECONDS = 0.001
"""A server that waited so long for a call is not crowded."""
WAIT_SECONDS = 0.0005
"""How long a group is waited for, for each call that it is to have: about what a call costs by itself, so that calls
which the server could answer as they come are not held back (uvloop's timers are up to a millisecond early)."""
FIRST_TRY, LAST_TRY = 8, 256
"""Groups that had their number before a larger number is tried; twice as many after each try that was in vain."""


class Sizing:
    """How many calls to wait for: one as long as they come singly, up to MOST where they crowd.

    A larger number is tried now and then, and kept where so many came, whereupon a still larger one is tried; a number
    that did not come is halved.
    """

    def __init__(self) -> None:
        self._usual = 1
        self._trying = False
        self._full = 0
        self._patience = FIRST_TRY

    @property
    def wanted(self) -> int:
        """Calls that the next group is to have."""
        return min(MOST, max(FEWEST, 2 * self._usual)) if self._trying else self._usual

    def rested(self) -> None:
        """Note that the server has waited for a call: a number that came without a break is counted anew."""
        if self._usual == 1 and not self._trying:
            self._full = 0

    def came(self, count: int) -> None:
        """Learn from how many calls a group had when it was answered."""
        if count >= self.wanted:
            self._had_all(count)
        else:
            self._lacked(count)
        self._trying = self._full >= self._patience and self._usual < MOST
        if self._trying:
            self._full = 0

    def _had_all(self, count: int) -> None:
        self._full += 1
        if self._trying:  # a crowd that is larger than it was is likely to be larger still
            self._usual, self._patience, self._full = min(MOST, count), FIRST_TRY, FIRST_TRY

    def _lacked(self, count: int) -> None:
        self._full = 0
        # What came before a break is likely to come again soon, what never came is not.
        self._patience = min(LAST_TRY, 2 * self._patience) if self._trying else FIRST_TRY
        fair = max(count, self._usual if self._trying else self._usual // 2)
        self._usual = fair if fair >= FEWEST else 1


class Gathering(Generic[Item]):
    """Gathers what calls ask and hands it on in groups; whoever asked awaits what `hand_on` makes of it."""

    def __init__(self, hand_on: Callable[[list[Item]], None]) -> None:
        self._hand_on = hand_on
        self._sizing = Sizing()
        self._group: list[Item] = []
        self._timer: asyncio.Handle | None = None
        self._ended = 0.0

    def alone(self) -> bool:
        """Whether a call that comes now is better answered at once; then `answered_alone` is to follow."""
        if time.perf_counter() - self._ended > IDLE_SECONDS:
            self._sizing.rested()
        return not self._group and self._sizing.wanted == 1

    def answered_alone(self) -> None:
        """Note that a call was answered at once."""
        self._sizing.came(1)
        self._ended = time.perf_counter()

    def add(self, item: Item) -> None:
        """Put an item into the present group, which is handed on when it is full or was waited for long enough."""
        self._group.append(item)
        loop, wanted = asyncio.get_running_loop(), self._sizing.wanted
        # A group is nobody's call: what it does must not be taken for the work of whoever came first or last.
        if len(self._group) == wanted:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_soon(self._answer, context=contextvars.Context())
        elif self._timer is None:
            self._timer = loop.call_later(WAIT_SECONDS * wanted, self._answer, context=contextvars.Context())

    def _answer(self) -> None:
        group, self._group, self._timer = self._group, [], None
        self._hand_on(group)
        self._sizing.came(len(group))
        self._ended = time.perf_counter()
