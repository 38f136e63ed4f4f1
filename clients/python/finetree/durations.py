# SPDX-License-Identifier: Apache-2.0
"""Durations: `google.protobuf.Duration`, seconds, and texts such as "8h" or "1h30m"."""

from __future__ import annotations

import re

from google.protobuf import duration_pb2

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NUMBER = r"\d+(?:\.\d+)?"
_PART = re.compile(rf"({_NUMBER})\s*(min|[dhms])")
_TEXT = re.compile(rf"(?:{_NUMBER}\s*(?:min|[dhms])\s*)+")
_BARE = re.compile(_NUMBER)
LONGEST_SECONDS = 100 * 365 * 86400
"""Longest duration; the services have narrower limits."""


def parse_duration(text: str) -> duration_pb2.Duration:
    """Parse a duration with its unit, such as "90s", "30m", "8h", "2d" or "1h30m".

    Raises:
        ValueError: The text is not one, has no unit, or is longer than 100 years; the message says what is expected.
    """
    words = text.strip()
    if _BARE.fullmatch(words):
        raise ValueError(f"{words} has no unit: write {words}h for hours, {words}m for minutes, {words}s for seconds")
    if _TEXT.fullmatch(words) is None:
        raise ValueError(f"expected a duration such as 30m, 8h or 1h30m, got {text!r}")
    seconds = sum(float(number) * _SECONDS[unit[0]] for number, unit in _PART.findall(words))
    if seconds > LONGEST_SECONDS:
        raise ValueError(f"expected a duration of at most 100 years, got {text!r}")
    return to_duration(seconds)


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Convert seconds to a Duration, rounded to nanoseconds."""
    nanos = round(seconds * 1e9)
    return duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
