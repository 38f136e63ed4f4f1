# SPDX-License-Identifier: Apache-2.0
"""Figures of the fine-tuning playbook: hours, dollars and memory by method and number of examples.

They refer to a 7B model on hardware that suits the method; row lengths, batches and epochs are not stated. Between the
playbook's dataset sizes, values are interpolated linearly in log-log coordinates.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import pairwise
from typing import Any

from finetree_estimator.catalog.names import GIB, raw
from finetree_estimator.intervals import Kind, Source

BASE = "7B"
"""Model size of the tables of hours and dollars (playbook L212)."""
CLASS_SHARE = 0.85
"""Least usable share of the marketed memory: a 24 GB A10G has 22.06 GiB (accelerators.csv)."""


class FigureKind(Enum):
    """Quantity of a figure, with its unit as value; the names are those of the contract's PlaybookFigureKind."""

    TIME_HOURS = "hours"
    COST_USD = "USD"
    CHART_TIME_HOURS = "hours by the chart"
    CHART_MONTHLY_USD = "USD a month"
    GPU_MEMORY_GB = "GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of the playbook in the unit of its kind."""

    kind: FigureKind
    value: float
    stated_for: str
    """Model and hardware of the figure, as text."""
    source: Source
    gpu: str = ""
    """GPU of the figure, as words that occur in the device's name; empty where none is named."""
    hourly: float = 0.0
    """Dollars per hour that the figure is computed with; 0 where none is stated."""
    at_least: bool = False
    """Whether the figure is a lower bound."""
    interpolated: bool = False
    """Whether the value was interpolated between two figures of the table."""
    extrapolated: bool = False
    """Whether the value lies beyond the table's ends."""


def figures(method: str, bits: int, *, examples: int, usable_bytes: int) -> tuple[Figure, ...]:
    """Look up the playbook's figures for a method (full, lora, qlora, prefix or adapter), a dataset and a GPU.

    Empty for a method that the playbook does not have. With `examples` 0 the tables by dataset size are left out; the
    chart has no row for bottleneck adapters. `bits` are those of a quantized base, else 0.
    """
    if method not in _tables()["hours"]:
        return ()
    by_size = (_hours(method, examples), _cost(method, examples)) if examples > 0 else ()
    return (*by_size, *_chart(method, usable_bytes), _memory(method, bits))


def between(sizes: Sequence[int], values: Sequence[float], size: int) -> tuple[float, bool]:
    """Interpolate a value in log-log coordinates; the second value says whether `size` lies beyond the table.

    Beyond the table the first or last segment is continued; at a size of the table its figure is returned exactly.
    """
    points = list(pairwise(zip(sizes, values, strict=True)))
    (x0, y0), (x1, y1) = next((segment for segment in points if size <= segment[1][0]), points[-1])
    if size in (x0, x1):
        return float(y0 if size == x0 else y1), False
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    return float(y0 * (size / x0) ** slope), not x0 < size < x1


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(raw("playbook.json"))
    return tables


def _source(locator: str) -> Source:
    return Source(Kind.PLAYBOOK, _tables()["source"], locator)


def _hours(method: str, examples: int) -> Figure:
    table = _tables()["hours"]
    value, beyond = between(table["examples"], table[method], examples)
    return Figure(
        kind=FigureKind.TIME_HOURS,
        value=value,
        stated_for=f"{BASE}, appropriate hardware",
        source=_source(table["locator"]),
        interpolated=not (beyond or examples in table["examples"]),
        extrapolated=beyond,
    )


def _cost(method: str, examples: int) -> Figure:
    table = _tables()["cost"]
    row = table[method]
    value, beyond = between(table["examples"], row["usd"], examples)
    return Figure(
        kind=FigureKind.COST_USD,
        value=value,
        stated_for=f"{BASE}, {row['gpu']} at ${row['usd_per_hour']:.2f} an hour",
        source=_source(table["locator"]),
        gpu=row["gpu"],
        hourly=row["usd_per_hour"],
        interpolated=not (beyond or examples in table["examples"]),
        extrapolated=beyond,
    )


def _chart(method: str, usable_bytes: int) -> Iterator[Figure]:
    """Look up hours and dollars a month in the chart's row of the largest GPU that the device's memory reaches."""
    rows = sorted((row for row in _tables()["chart"] if row["method"] == method), key=lambda row: row["gpu_gb"])
    if not rows:
        return
    reached = [row for row in rows if usable_bytes >= CLASS_SHARE * row["gpu_gb"] * GIB]
    row = reached[-1] if reached else rows[0]
    gpu, source, at_least = row["gpu"], _source(row["locator"]), row.get("at_least", False)
    yield Figure(kind=FigureKind.CHART_TIME_HOURS, value=row["hours"], stated_for=gpu, source=source, gpu=gpu)
    yield Figure(
        kind=FigureKind.CHART_MONTHLY_USD,
        value=row["monthly_usd"],
        stated_for=f"{gpu}, a lower bound" if at_least else gpu,
        source=source,
        gpu=gpu,
        at_least=at_least,
    )


def _memory(method: str, bits: int) -> Figure:
    table = _tables()["memory_gb_8bit" if bits == 8 else "memory_gb"]
    return Figure(
        kind=FigureKind.GPU_MEMORY_GB,
        value=table[method],
        stated_for="smallest GPU of the method" + (", 8-bit base" if bits == 8 else ""),
        source=_source(table["locator"]),
    )
