# SPDX-License-Identifier: Apache-2.0
"""The playbook's own figures for a run, beside the computed ones.

The playbook states hours, dollars and memory by method and size of the data alone: one 7B model, hardware that suits
the method, nothing said of row lengths, batches or epochs. Its figures are answered as they stand, between its dataset
sizes on straight lines in log-log, and where a computed interval leaves one out the note says why that may be.
"""

import json
import math
from collections.abc import Callable
from enum import Enum
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

from finetree_estimator.engine import Estimate
from finetree_estimator.intervals import Interval, Kind, Source, made
from finetree_estimator.methods import QuantizedLora, name_of
from finetree_estimator.names import GIB, raw
from finetree_estimator.run import Run

BASE = "7B"
"""Size of the model that the tables of hours and dollars are based on (playbook L212)."""
LIKE_BASE = (6e9, 8.5e9)
"""Parameters of models that are sold as 7B or 8B."""
CLASS_SHARE = 0.85
"""Least share of a memory class that a device of it can use: a 24 GB A10G offers 22.06 GiB (accelerators.csv)."""
SAME_PRICE = (0.8, 1.25)
"""Within these an hourly price explains nothing."""
DOLLARS = "USD"
"""The one currency of the playbook."""


class FigureKind(Enum):
    """What a figure is about, with its unit; the names are those of the contract's PlaybookFigureKind."""

    # Enum's own hashes the name, in Python; members are single, so their identity will do.
    __hash__ = object.__hash__

    TIME_HOURS = "hours"
    COST_USD = "USD"
    CHART_TIME_HOURS = "hours by the chart"
    CHART_MONTHLY_USD = "USD a month"
    GPU_MEMORY_GB = "GB"


class Figure(NamedTuple):
    """A figure of the playbook in the unit of its kind."""

    kind: FigureKind
    value: float
    stated_for: str
    source: Source
    gpu: str = ""
    """GPU that it is stated for, every word of it part of the device's name; empty where it names none."""
    hourly: float = 0.0
    """Dollars of an hour that it is computed with; 0 where it states none."""
    interpolated: bool = False
    extrapolated: bool = False
    at_least: bool = False
    """Whether the playbook gives it as a lower bound."""


# As `intervals.made`: the constructors of these tuples are written in Python, and each answer has ten.
_figure: Callable[[tuple[FigureKind, float, str, Source, str, float, bool, bool, bool]], Figure] = partial(
    tuple.__new__, Figure
)


class Compared(NamedTuple):
    """A figure, the computed one of the same unit where there is one, and where the two disagree."""

    figure: Figure
    computed: Interval | None
    note: str


_compared: Callable[[tuple[Figure, Interval | None, str]], Compared] = partial(tuple.__new__, Compared)


def compare(run: Run, estimate: Estimate, *, examples: int, runs_per_month: float = 0.0) -> tuple[Compared, ...]:
    """The playbook's figures for a run of so many examples (0: unknown), each beside the computed one."""
    bits = run.method.bits if isinstance(run.method, QuantizedLora) else 0
    computed = _computed(estimate, runs_per_month)
    hourly = estimate.cost.hourly if estimate.cost is not None else 0.0
    here = _Here(estimate.total_parameters, run.device.name, run.devices, hourly)
    found = []
    for figure in figures(name_of(run.method), bits, examples, run.device.usable_bytes):
        interval = computed.get(figure.kind)
        note = "" if interval is None or _agrees(figure, interval) else _note(figure, interval, here)
        found.append(_compared((figure, interval, note)))
    return tuple(found)


class _Here(NamedTuple):
    """What a run is where the playbook speaks of another."""

    parameters: int
    device: str
    devices: int
    hourly: float
    """Price of an hour of one device; 0 where it has none."""


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
    """A row of a table by dataset size: what its figures have in common, the sizes that it has, and its lines."""

    figure: Figure
    sizes: frozenset[int]
    segments: _Segments

    def at(self, examples: int) -> Figure:
        """The figure at a size."""
        kind, _, stated_for, source, gpu, hourly, *_ = self.figure
        value, beyond = _at(self.segments, examples)
        known = beyond or examples in self.sizes
        return _figure((kind, value, stated_for, source, gpu, hourly, not known, beyond, False))


@cache
def _hours(method: str) -> _Curve:
    table = _tables()["hours"]
    sizes = tuple(table["examples"])
    figure = Figure(FigureKind.TIME_HOURS, 0.0, f"{BASE}, appropriate hardware", _source(table["locator"]))
    return _Curve(figure, frozenset(sizes), _segments(sizes, tuple(table[method])))


@cache
def _cost(method: str) -> _Curve:
    table = _tables()["cost"]
    row, sizes = table[method], tuple(table["examples"])
    stated_for = f"{BASE}, {row['gpu']} at ${row['usd_per_hour']:.2f} an hour"
    figure = Figure(
        FigureKind.COST_USD, 0.0, stated_for, _source(table["locator"]), gpu=row["gpu"], hourly=row["usd_per_hour"]
    )
    return _Curve(figure, frozenset(sizes), _segments(sizes, tuple(row["usd"])))


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
    at_least, source = row.get("at_least", False), _source(row["locator"])
    monthly = f"{row['gpu']}, a lower bound" if at_least else row["gpu"]
    return (
        Figure(FigureKind.CHART_TIME_HOURS, row["hours"], row["gpu"], source, gpu=row["gpu"]),
        Figure(FigureKind.CHART_MONTHLY_USD, row["monthly_usd"], monthly, source, gpu=row["gpu"], at_least=at_least),
    )


def _memory(method: str, bits: int) -> Figure:
    table = _tables()["memory_gb_8bit" if bits == 8 else "memory_gb"]
    stated = "smallest GPU of the method, 8-bit base" if bits == 8 else "smallest GPU of the method"
    return Figure(FigureKind.GPU_MEMORY_GB, table[method], stated, _source(table["locator"]))


def _computed(estimate: Estimate, runs_per_month: float) -> dict[FigureKind, Interval]:
    """Computed figures in the playbook's units; money only in its currency. A card's GB are 2^30 bytes."""
    found = {FigureKind.GPU_MEMORY_GB: _in_unit(estimate.memory.device, 1 / GIB, _DEVICE_PEAK)}
    if estimate.times is not None:
        hours = _in_unit(estimate.times.total, 1 / 3600, _TOTAL_TIME)
        found[FigureKind.TIME_HOURS] = found[FigureKind.CHART_TIME_HOURS] = hours
    cost = estimate.cost
    if cost is not None and cost.amount is not None and cost.currency == DOLLARS:
        found[FigureKind.COST_USD] = _in_unit(cost.amount, 1.0, _AMOUNT)
        if runs_per_month > 0:
            found[FigureKind.CHART_MONTHLY_USD] = _in_unit(cost.amount, runs_per_month, _AMOUNT)
    return found


_DEVICE_PEAK = (Source(Kind.COMPUTED, "estimate", "memory"),)
_TOTAL_TIME = (Source(Kind.COMPUTED, "estimate", "time"),)
_AMOUNT = (Source(Kind.COMPUTED, "estimate", "cost"),)


def _in_unit(interval: Interval, factor: float, sources: tuple[Source, ...]) -> Interval:
    low, expected, high, _, coverage = interval
    return made((low * factor, expected * factor, high * factor, sources, coverage))


def _agrees(figure: Figure, computed: Interval) -> bool:
    return (figure.value <= computed.high) and (figure.at_least or computed.low <= figure.value)


def _note(figure: Figure, computed: Interval, here: _Here) -> str:
    """How far the figure lies outside the computed interval, and what is different there (playbook) and here."""
    value, expected = figure.value, computed.expected
    above = value > computed.high
    factor = value / expected if above and expected else expected / value
    by = "far" if expected == 0 else f"{factor:,.0f} times" if factor >= 10 else f"{factor:.1f} times"
    differences = _unlike(figure, here)
    differences.append(_unsaid(figure.kind, above=above))
    return f"{by} {'above' if above else 'below'} the computed: {'; '.join(differences)}"


def _unlike(figure: Figure, here: _Here) -> list[str]:
    """Where the run is not what the playbook speaks of. What names and prices say of each other is said again."""
    _, _, stated_for, _, gpu, hourly, _, extrapolated, _ = figure
    found = []
    if not LIKE_BASE[0] <= here.parameters <= LIKE_BASE[1]:
        found.append(_other_size(stated_for, here.parameters))
    if gpu and (other := _other_gpu(gpu, here.device)):
        found.append(other)
    if here.devices > 1:
        found.append(f"one GPU there, {here.devices} here")
    if hourly and here.hourly and (other := _other_price(hourly, here.hourly)):
        found.append(other)
    if extrapolated:
        found.append("beyond the table there")
    return found


@lru_cache(maxsize=1024)
def _other_size(stated_for: str, parameters: int) -> str:
    there = BASE if stated_for.startswith(BASE) else f"probably {BASE}"
    return f"{there} there, {parameters / 1e9:.3g}B here"


@lru_cache(maxsize=1024)
def _other_gpu(gpu: str, device: str) -> str:
    """Empty where the device is the GPU."""
    return "" if all(word in device for word in gpu.split()) else f"{gpu} there, {device} here"


@lru_cache(maxsize=1024)
def _other_price(there: float, here: float) -> str:
    """Empty where they are near."""
    return "" if SAME_PRICE[0] <= there / here <= SAME_PRICE[1] else f"${there:.2f} an hour there, ${here:.2f} here"


def _unsaid(kind: FigureKind, *, above: bool) -> str:
    """What the playbook leaves open."""
    if kind is FigureKind.GPU_MEMORY_GB:
        return "the size of a card there, a peak here" if above else "rows and batch are not stated there"
    return "row lengths and epochs are not stated there"
