# SPDX-License-Identifier: Apache-2.0
"""The playbook's own figures: hours, dollars and memory by method and size of the data alone.

They are of one 7B model on hardware that suits the method, with nothing said of row lengths, batches or epochs; between
its dataset sizes they are answered on straight lines in log-log.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

from finetree_estimator.catalog.names import GIB, raw
from finetree_estimator.intervals import Kind, Source

BASE = "7B"
"""Size of the model that the tables of hours and dollars are based on (playbook L212)."""
CLASS_SHARE = 0.85
"""Least share of a memory class that a device of it can use: a 24 GB A10G offers 22.06 GiB (accelerators.csv)."""


class FigureKind(Enum):
    """What a figure is about, with its unit; the names are those of the contract's PlaybookFigureKind."""

    # Enum's own hashes the name, in Python; members are single, so their identity will do.
    __hash__ = object.__hash__

    TIME_HOURS = "hours"
    COST_USD = "USD"
    CHART_TIME_HOURS = "hours by the chart"
    CHART_MONTHLY_USD = "USD a month"
    GPU_MEMORY_GB = "GB"


@dataclass(frozen=True, slots=True, eq=False)
class Stated:
    """What a row of the playbook says whatever the value. There are few: as keys of caches they go by identity."""

    kind: FigureKind
    stated_for: str
    source: Source
    gpu: str = ""
    """GPU that it is stated for, every word of it part of the device's name; empty where it names none."""
    hourly: float = 0.0
    """Dollars of an hour that it is computed with; 0 where it states none."""
    at_least: bool = False
    """Whether the playbook gives it as a lower bound."""


class Figure(NamedTuple):
    """A figure of the playbook in the unit of its kind."""

    stated: Stated
    value: float
    interpolated: bool = False
    extrapolated: bool = False


# As `intervals.made`: the constructors of these tuples are written in Python, and each answer has ten.
_figure: Callable[[tuple[Stated, float, bool, bool]], Figure] = partial(tuple.__new__, Figure)


def figures(method: str, bits: int, examples: int, usable_bytes: int) -> tuple[Figure, ...]:
    """What the playbook says of a method (full, lora, qlora, prefix or adapter), the size of the data and the GPU.

    Without a number of examples the tables by dataset size have nothing to say, and of bottleneck adapters the chart
    has nothing.
    """
    by_size = (_hours(method).at(examples), _cost(method).at(examples)) if examples > 0 else ()
    return (*by_size, *_whatever_size(method, bits, usable_bytes))


def between(sizes: list[int], values: list[float], size: int) -> tuple[float, bool]:
    """The value at a dataset size and whether it lies beyond the table; log-log, the end segments run on.

    A figure of the table comes back as it stands.
    """
    return _at(_segments(tuple(sizes), tuple(values)), size)


_Segments = tuple[tuple[int, int, float, float, float], ...]


@lru_cache(maxsize=64)
def _segments(sizes: tuple[int, ...], values: tuple[float, ...]) -> _Segments:
    """Ends in size, values there, and slope of each straight line."""
    points = zip(sizes, values, strict=True)
    return tuple((x0, x1, y0, y1, math.log(y1 / y0) / math.log(x1 / x0)) for (x0, y0), (x1, y1) in pairwise(points))


def _at(segments: _Segments, size: int) -> tuple[float, bool]:
    for x0, x1, y0, y1, slope in segments:
        if size > x1:
            continue
        if size in (x0, x1):
            return float(y0 if size == x0 else y1), False
        return float(y0 * (size / x0) ** slope), size < x0
    x0, _, y0, _, slope = segments[-1]
    return float(y0 * (size / x0) ** slope), True


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads(raw("playbook.json"))
    return tables


@cache
def _source(locator: str) -> Source:
    return Source(Kind.PLAYBOOK, _tables()["source"], locator)


class _Curve(NamedTuple):
    """A row of a table by dataset size: what it says whatever the size, the sizes that it has, and its lines."""

    stated: Stated
    sizes: frozenset[int]
    segments: _Segments

    def at(self, examples: int) -> Figure:
        """The figure at a size."""
        value, beyond = _at(self.segments, examples)
        return _figure((self.stated, value, not (beyond or examples in self.sizes), beyond))


@cache
def _hours(method: str) -> _Curve:
    table = _tables()["hours"]
    sizes = tuple(table["examples"])
    stated = Stated(FigureKind.TIME_HOURS, f"{BASE}, appropriate hardware", _source(table["locator"]))
    return _Curve(stated, frozenset(sizes), _segments(sizes, tuple(table[method])))


@cache
def _cost(method: str) -> _Curve:
    table = _tables()["cost"]
    row, sizes = table[method], tuple(table["examples"])
    stated_for = f"{BASE}, {row['gpu']} at ${row['usd_per_hour']:.2f} an hour"
    source = _source(table["locator"])
    stated = Stated(FigureKind.COST_USD, stated_for, source, gpu=row["gpu"], hourly=row["usd_per_hour"])
    return _Curve(stated, frozenset(sizes), _segments(sizes, tuple(row["usd"])))


@lru_cache(maxsize=1024)
def _whatever_size(method: str, bits: int, usable_bytes: int) -> tuple[Figure, ...]:
    return (*_chart(method, usable_bytes), _memory(method, bits))


def _chart(method: str, usable_bytes: int) -> tuple[Figure, ...]:
    """Of the method's rows the largest class that the device reaches, or the smallest."""
    rows = [row for row in _tables()["chart"] if row["method"] == method]
    if not rows:
        return ()
    reached = [row for row in rows if usable_bytes >= CLASS_SHARE * row["gpu_gb"] * GIB]
    row = max(reached, key=lambda item: item["gpu_gb"]) if reached else min(rows, key=lambda item: item["gpu_gb"])
    hours, monthly = _charted(row["gpu"], row["locator"], at_least=row.get("at_least", False))
    return Figure(hours, row["hours"]), Figure(monthly, row["monthly_usd"])


@cache
def _charted(gpu: str, locator: str, *, at_least: bool) -> tuple[Stated, Stated]:
    """What a row of the chart says of its hours and of its dollars a month."""
    source, bound = _source(locator), f"{gpu}, a lower bound" if at_least else gpu
    return (
        Stated(FigureKind.CHART_TIME_HOURS, gpu, source, gpu),
        Stated(FigureKind.CHART_MONTHLY_USD, bound, source, gpu, at_least=at_least),
    )


def _memory(method: str, bits: int) -> Figure:
    table = _tables()["memory_gb_8bit" if bits == 8 else "memory_gb"]
    return Figure(_asked(eight_bit=bits == 8), table[method])


@cache
def _asked(*, eight_bit: bool) -> Stated:
    """What the playbook says of the memory that methods ask for."""
    table = _tables()["memory_gb_8bit" if eight_bit else "memory_gb"]
    stated = "smallest GPU of the method, 8-bit base" if eight_bit else "smallest GPU of the method"
    return Stated(FigureKind.GPU_MEMORY_GB, stated, _source(table["locator"]))
