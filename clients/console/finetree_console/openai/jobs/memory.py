# SPDX-License-Identifier: Apache-2.0
"""What an application keeps in memory about jobs. Everything is answered without it, more slowly or less exactly."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import OrderedDict
from typing import Generic, TypeVar

from starlette.requests import Request

T = TypeVar("T")
ENTRIES = 4096


class Newest(Generic[T]):
    """The newest values by key, a bounded number of them."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str) -> T | None:
        """Return the value of a key; None where there is none, or no longer."""
        return self._values.get(key)

    def put(self, key: str, value: T) -> None:
        """Set the value of a key, and forget the oldest value if there are too many."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > ENTRIES:
            self._values.popitem(last=False)


class Memory:
    """Memory of one application.

    Attributes:
        results: result files and trained tokens by the UUID of an ended job, which never change.
    """

    def __init__(self) -> None:
        self.results: Newest[tuple[list[str], int]] = Newest()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._made: Newest[float] = Newest()

    def lock(self, label: str) -> asyncio.Lock:
        """Return the lock of a request by its label: what it has made is seen by the one that repeats it."""
        return self._locks.setdefault(label, asyncio.Lock())

    def made(self, label: str) -> None:
        """Note that a request is answered with a job now."""
        self._made.put(label, time.monotonic())

    def seconds_since(self, label: str) -> float | None:
        """Seconds since a request was answered with a job; None where that was not here, or long ago."""
        made = self._made.get(label)
        return None if made is None else time.monotonic() - made


def memory_of(request: Request) -> Memory:
    """Return the memory of the application that a request is for."""
    state = request.app.state
    if not hasattr(state, "openai_jobs"):
        state.openai_jobs = Memory()
    memory: Memory = state.openai_jobs
    return memory
