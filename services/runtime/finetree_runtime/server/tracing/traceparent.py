# SPDX-License-Identifier: Apache-2.0
"""W3C trace context, as the metadata of a call and a job carry it: `00-TRACE_ID-SPAN_ID-FLAGS`."""

from __future__ import annotations

import re
from dataclasses import dataclass

TRACEPARENT = "traceparent"
"""Key of the metadata."""

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span in a trace, by their ids in small hexadecimal digits. `sampled`: its trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool = True


def parse_traceparent(text: str) -> TraceContext | None:
    """Read a traceparent; None for a text that is none, as the standard asks."""
    found = _FORM.fullmatch(text)
    if found is None or not found[1].strip("0") or not found[2].strip("0"):
        return None
    return TraceContext(found[1], found[2], bool(int(found[3], 16) & 1))
