# SPDX-License-Identifier: Apache-2.0
"""Spans that are made of records after the fact, and so have ids and times of their own choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RecordedSpan:
    """A span that is over. Ids are small hexadecimal digits, times microseconds since 1970.

    Attributes:
        name: For example "attempt".
        trace_id: 32 digits.
        span_id: 16 digits. Equal ids are the same span: one that is exported twice is one.
        parent_id: 16 digits; empty for the first span of a trace.
        start: When it began.
        end: When it was over.
        attributes: What else is known of it.
        error: Why it failed; empty where it did not.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    error: str = ""


class SpanSink(Protocol):
    """Takes recorded spans."""

    async def export(self, spans: Sequence[RecordedSpan]) -> bool:
        """Send spans; return whether they have arrived."""
        ...
