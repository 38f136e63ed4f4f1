# SPDX-License-Identifier: Apache-2.0
"""Lay out a chart of memory ranges as shapes, which `svg` and `png` draw."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

GIB = 1 << 30
WIDTH = 980.0
LEFT, RIGHT = 160.0, 660.0
"""Ends of the axis; labels are left of it, notes right."""
TOP, ROW, GAP = 56.0, 26.0, 40.0
INK, FAINT, GRID = "#1f2933", "#616e7c", "#d9dee4"
LIMIT = "#3e4c59"
COLORS = {"fits": "#1a7f5a", "tight": "#b7791f", "does not fit": "#b42318"}
"""Color by verdict; grey without one."""
NOTE_LETTERS = 44
"""Longest note in characters."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the chart with a range in bytes; all zero if there is none and the note says why."""

    group: str
    label: str
    low: float = 0.0
    expected: float = 0.0
    high: float = 0.0
    limit: float = 0.0
    verdict: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True, slots=True)
class Stroke:
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    color: str
    width: float


@dataclass(frozen=True, slots=True)
class Words:
    """A line of text; `anchor` is start, middle or end, `y` the baseline."""

    x: float
    y: float
    text: str
    size: float
    color: str
    anchor: str = "start"
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Path:
    """A line through points; `dash` are the lengths of its marks and gaps, none of them for a solid line."""

    points: tuple[tuple[float, float], ...]
    color: str
    width: float
    dash: tuple[float, ...] = ()


Shape = Box | Stroke | Words | Path


@dataclass(frozen=True, slots=True)
class Chart:
    """Shapes in the order of drawing."""

    title: str
    width: float
    height: float
    shapes: tuple[Shape, ...]
    dark: tuple[tuple[str, str], ...] = ()
    """Colors that a viewer with a dark theme sees in place of others; the background's is #ffffff."""


def memory_chart(title: str, rows: Sequence[Row]) -> Chart:
    """Lay out one panel for each group and one line for each row, on a common logarithmic axis in GiB."""
    groups = [(name, list(items)) for name, items in groupby(rows, key=lambda row: row.group)]
    axis = _Axis.over(rows)
    shapes: list[Shape] = [Words(16, 30, title, 17, INK, bold=True)]
    y = TOP
    for name, items in groups:
        shapes += _panel(axis, name, items, y)
        y += GAP + ROW * len(items)
    shapes.append(
        Words(
            LEFT,
            y + 8,
            "peak device memory: expected, and low to high; the vertical line is the usable memory",
            12,
            FAINT,
        )
    )
    return Chart(title, WIDTH, y + 24, tuple(shapes))


@dataclass(frozen=True, slots=True)
class _Axis:
    """Bytes to x on a logarithmic axis: sizes that differ tenfold stay readable."""

    low: float
    high: float

    @classmethod
    def over(cls, rows: Sequence[Row]) -> "_Axis":
        values = [value for row in rows for value in (row.low, row.high, row.limit) if value > 0] or [GIB]
        return cls(2.0 ** math.floor(math.log2(min(values))), 2.0 ** math.ceil(math.log2(max(values) * 1.0001)))

    def at(self, value: float) -> float:
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return LEFT + (RIGHT - LEFT) * share

    def ticks(self) -> Iterator[float]:
        """Yield powers of two, at most nine."""
        count = round(math.log2(self.high / self.low))
        for power in range(0, count + 1, max(1, math.ceil(count / 8))):
            yield self.low * 2.0**power


def _panel(axis: _Axis, name: str, rows: Sequence[Row], top: float) -> Iterator[Shape]:
    bottom = top + 18 + ROW * len(rows)
    yield Words(16, top + 10, name, 14, INK, bold=True)
    for tick in axis.ticks():
        yield Stroke(axis.at(tick), top + 16, axis.at(tick), bottom, GRID, 1)
        yield Words(axis.at(tick), top + 10, _gib(tick), 11, FAINT, "middle")
    limit = max(row.limit for row in rows)
    for number, row in enumerate(rows):
        yield from _line(axis, row, top + 18 + ROW * (number + 0.5))
    if limit:
        yield Stroke(axis.at(limit), top + 14, axis.at(limit), bottom, LIMIT, 2)


def _line(axis: _Axis, row: Row, y: float) -> Iterator[Shape]:
    yield Words(LEFT - 10, y + 4, row.label, 13, INK, "end")
    color = COLORS.get(row.verdict, FAINT)
    if row.high:
        left, right = axis.at(row.low), axis.at(row.high)
        yield Box(left, y - 5, max(right - left, 2), 10, color)
        yield Stroke(axis.at(row.expected), y - 8, axis.at(row.expected), y + 8, INK, 3)
        text = f"{_gib(row.expected)}, {row.note}"
    else:
        text = row.note
    shown = text if len(text) <= NOTE_LETTERS else f"{text[: NOTE_LETTERS - 3]}..."
    yield Words(RIGHT + 14, y + 4, shown, 12, INK)


def _gib(count: float) -> str:
    value = count / GIB
    return f"{value:.0f} GiB" if value >= 100 else f"{value:.3g} GiB"
