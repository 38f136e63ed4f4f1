# SPDX-License-Identifier: Apache-2.0
"""Numbers with their units, and the contract's enums as words."""

from __future__ import annotations

import math
from typing import Any

GIB = 1 << 30
MIB = 1 << 20


def size(count: float) -> str:
    """Format bytes: "1.53 GiB", "270 MiB"."""
    if abs(count) >= GIB:
        return f"{count / GIB:.2f} GiB"
    if abs(count) >= MIB:
        return f"{count / MIB:.0f} MiB"
    return f"{count / 1024:.1f} KiB" if abs(count) >= 1024 else f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Format seconds: "0.8 s", "42 s", "2 min 5 s", "3 h 20 min", "2 d 4 h"."""
    if seconds < 9.95 or not math.isfinite(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def count(number: float) -> str:
    """Format a large number: "135 M", "4.9 M", "812"."""
    if abs(number) < 1e4:
        return f"{number:.0f}"
    # Round before choosing the unit: 999.9 million are a billion.
    shown = float(f"{number:.3g}")
    unit, name = next(pair for pair in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) if abs(shown) >= pair[0])
    return f"{shown / unit:.3g} {name}"


def rate(flops: float) -> str:
    """Format a matrix rate: "2.1 TFLOP/s", "780 GFLOP/s", "0.9 GFLOP/s"."""
    if flops >= 1e12:
        return f"{flops / 1e12:.1f} TFLOP/s"
    return f"{flops / 1e9:.0f} GFLOP/s" if flops >= 1e10 else f"{flops / 1e9:.2g} GFLOP/s"


def word(enum: Any, number: int) -> str:
    """Format an enum's value: JOB_STATE_QUEUED is "queued"; a newer service's value is its number."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    if value is None:
        return f"unknown ({number})"
    prefix = enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    return str(value.name).removeprefix(prefix).replace("_", " ").lower()
