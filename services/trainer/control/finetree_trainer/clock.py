# SPDX-License-Identifier: Apache-2.0
"""The service's clock, and its times as protobuf messages. Inside the service a time is microseconds since 1970."""

import time

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


class Clock:
    """The time now; it never goes back, so the times in the event log are in the log's order."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> int:
        """Return the time now in microseconds since 1970."""
        self._last = max(self._last, time.time_ns() // 1000)
        return self._last


def timestamp(micros: int) -> Timestamp:
    """Microseconds since 1970 as a protobuf Timestamp."""
    moment = Timestamp()
    moment.FromMicroseconds(micros)
    return moment


def duration(seconds: float) -> Duration:
    """Seconds as a protobuf Duration."""
    value = Duration()
    value.FromNanoseconds(int(seconds * 1e9))
    return value


def seconds_of(value: Duration) -> float:
    """A protobuf Duration in seconds."""
    return value.ToNanoseconds() / 1e9
