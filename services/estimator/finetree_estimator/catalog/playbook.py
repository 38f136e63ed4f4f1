# SPDX-License-Identifier: Apache-2.0
"""The playbook's own figures: hours, dollars and memory by method and size of the data alone.

They are of one 7B model on hardware that suits the method, with nothing said of row lengths, batches or epochs. Between
its dataset sizes they are interpolated on straight lines in log-log.
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
"""Size of the model that the tables of hours and dollars are based on (playbook L212)."""
CLASS_SHARE = 0.85
"""Least share of a memory class that a device of it can use: a 24 GB A10G offers 22.06 GiB (accelerators.csv)."""


class FigureKind(Enum):
    """What a figure is about, with its unit; the names are those of the contract's PlaybookFigureKind."""

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
    """Model and hardware that it is stated for."""
    source: Source
    gpu: str = ""
    """GPU that it is stated for, every word of it part of the device's name; empty where it names none."""
    hourly: float = 0.0
    """Dollars of an hour that it is computed with; 0 where it states none."""
    at_least: bool = False
    """Whether the playbook gives it as a lower bound."""
    interpolated: bool = False
    """Whether it lies between two figures of the table."""
    extrapolated: bool = False
    """Whether it lies beyond the table's ends."""


def figures(method: str, bits: int, examples: int, usable_bytes: int) -> tuple[Figure, ...]:
    """The playbook's figures for a method (full, lora, qlora, prefix or adapter), the size of the data and the GPU.

    Without a number of examples there is none of the tables by dataset size, and none of the chart for bottleneck
    adapters. `bits` are those of a quantized base, 0 of any other. There are none of a method that
    the playbook does not know.
    """
    if method not in _tables()["hours"]:
        return ()
    by_size = (_hours(method, examples), _cost(method, examples)) if examples > 0 else ()
    return (*by_size, *_chart(method, usable_bytes), _memory(method, bits))


def between(sizes: Sequence[int], values: Sequence[float], size: int) -> tuple[float, bool]:
    """The value at a dataset size and whether it lies beyond the table; log-log, the end segments run on.

    A figure of the table comes back as it stands.
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
    """Hours and dollars a month: of the method's rows the largest class that the device reaches, or the smallest."""
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
