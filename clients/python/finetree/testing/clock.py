# SPDX-License-Identifier: Apache-2.0
"""The clock of a fake suite, which stands still until a test moves it or runs at any speed, and ids made of it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from google.protobuf import timestamp_pb2

from finetree.durations import parse_duration

START = datetime(2026, 1, 1, tzinfo=UTC)
"""Where a suite's time begins, so that its events are the same in every run."""
_MICROS = 1_000_000


class Clock:
    """Time of a suite, in microseconds since 1970 as the services count it. Thread-safe.

    Nothing of a suite sleeps: what waits for a moment waits until this clock has reached it.

        suite.clock.advance("2h")  # heartbeats, deadlines and paced events of two hours happen now
        Suite(clock=Clock(speed=60))  # a minute a second

    Attributes:
        changed: notified whenever the clock is moved, and by whoever changes what others wait for.
    """

    def __init__(self, start: datetime = START, *, speed: float = 0.0) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._base = round(start.timestamp() * _MICROS)
        self._mark = time.monotonic()
        self._speed = speed
        self._listeners: list[Callable[[], None]] = []

    @property
    def speed(self) -> float:
        """Seconds of this clock in a real second; 0 while it stands still."""
        return self._speed

    @speed.setter
    def speed(self, value: float) -> None:
        with self.changed:
            self._base, self._mark = self.micros(), time.monotonic()
            self._speed = value
            self.changed.notify_all()

    def micros(self) -> int:
        """Microseconds since 1970."""
        with self.changed:
            return self._base + round((time.monotonic() - self._mark) * self._speed * _MICROS)

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.micros())

    def timestamp(self) -> timestamp_pb2.Timestamp:
        """The time as the contract writes it."""
        return to_timestamp(self.micros())

    def advance(self, duration: str | float | timedelta) -> datetime:
        """Move the clock forward, and let happen what was due; returns the new time.

        Args:
            duration: "2h", "90s", seconds, or a timedelta.

        Raises:
            ValueError: the text is no duration, or it is negative: time never goes back.
        """
        micros = _micros_of(duration)
        if micros < 0:
            raise ValueError(f"time never goes back, got {duration!r}")
        with self.changed:
            self._base += micros
            for listener in self._listeners:
                listener()
            self.changed.notify_all()
            return self.now()

    def advance_to(self, micros: int) -> None:
        """Move the clock to a moment, unless that has passed."""
        with self.changed:
            self.advance(max(0, micros - self.micros()) / _MICROS)

    def wake(self) -> None:
        """Let whoever waits look again."""
        with self.changed:
            self.changed.notify_all()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function whenever the clock is moved, while `changed` is held."""
        self._listeners.append(listener)

    def real_seconds_until(self, micros: int) -> float | None:
        """Real seconds until the clock reaches a moment by itself; None while it stands still."""
        left = micros - self.micros()
        if left <= 0:
            return 0.0
        return left / _MICROS / self._speed if self._speed > 0 else None


class Ids:
    """Ids of a suite: UUIDs of version 7 that sort by creation, the same in every run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = 0

    def new(self) -> str:
        """Make an id: milliseconds of the clock, and the count of ids where a service draws a random number."""
        with self._clock.changed:
            self._count += 1
            milliseconds = self._clock.micros() // 1000
            return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62 | self._count))


def to_timestamp(micros: int) -> timestamp_pb2.Timestamp:
    """Convert microseconds since 1970."""
    stamp = timestamp_pb2.Timestamp()
    stamp.FromMicroseconds(micros)
    return stamp


def _micros_of(duration: str | float | timedelta) -> int:
    if isinstance(duration, str):
        return parse_duration(duration).ToMicroseconds()
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    return round(seconds * _MICROS)
