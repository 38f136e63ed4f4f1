# SPDX-License-Identifier: Apache-2.0
"""Lay out jobs side by side as shapes, which `svg` draws: a legend, a panel for each curve, and the final metrics."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetree_api.trainer.v1 import comparison_pb2

from finetree_cli.render.chart.memory import FAINT, GRID, INK, Box, Chart, Path, Shape, Stroke, Words

WIDTH = 980.0
LEFT, RIGHT = 76.0, 956.0
"""Ends of the horizontal axis of a panel."""
PANEL, GAP, ROW = 210.0, 74.0, 24.0
"""Height of a panel, space between two, height of a line of text."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7a4fbf", "#5b6770")
"""Told apart by most who see few colors too: M. Okabe and K. Ito, Color universal design (2008). Yellow is darker here:
theirs would vanish on white."""
DASHES = ((), (6.0, 4.0))
"""The second eight jobs have the same colors, dashed."""
DARK = (
    ("#ffffff", "#0f1419"),
    (INK, "#e6e9ed"),
    (FAINT, "#9aa5b1"),
    (GRID, "#2b333b"),
    ("#0072b2", "#4aa8e0"),
    ("#7a4fbf", "#b08be8"),
    ("#5b6770", "#aab4be"),
)
"""Colors on a dark background."""
AXES = {
    comparison_pb2.CURVE_AXIS_STEP: "optimizer steps",
    comparison_pb2.CURVE_AXIS_EPOCH: "passes over the rows",
    comparison_pb2.CURVE_AXIS_TOKENS: "tokens processed",
}


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values to places between two ends."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self, most: int) -> Iterator[float]:
        """Round numbers within the scale, at most so many and one more."""
        raw = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
        number = math.ceil(self.low / step - 1e-9)
        while number * step <= self.high + 1e-9 * step:
            yield number * step
            number += 1


def comparison_chart(found: comparison_pb2.CompareJobsResponse, *, labels: Sequence[str], conclusion: str) -> Chart:
    """Lay out a comparison; `labels` name the jobs, `conclusion` says in a line which is best, or why none is."""
    title = f"{len(found.jobs)} jobs side by side"
    shapes: list[Shape] = [Words(16, 30, title, 17, INK, bold=True), Words(16, 52, _cut(conclusion, 130), 13, INK)]
    y = 62.0
    for index, label in enumerate(labels):
        y += ROW
        shapes += [_mark(index, 16, 44, y - 4), Words(52, y, _cut(label, 120), 13, INK)]
    y += 40
    for name in dict.fromkeys(curve.metric for curve in found.curves):
        curves = [curve for curve in found.curves if curve.metric == name]
        shapes += _panel(curves, top=y, axis=AXES.get(found.axis, AXES[comparison_pb2.CURVE_AXIS_STEP]))
        y += PANEL + GAP
    for metric in found.metrics:
        shapes += _intervals(metric, labels, top=y)
        y += ROW * (1 + sum(value.HasField("value") for value in metric.values)) + 34
    return Chart(title, WIDTH, y, tuple(shapes), DARK)


def _mark(job: int, left: float, right: float, y: float) -> Path:
    return Path(((left, y), (right, y)), _color(job), 3, DASHES[job // len(COLORS) % 2])


def _color(job: int) -> str:
    return COLORS[job % len(COLORS)]


def _panel(curves: Sequence[comparison_pb2.ComparedCurve], *, top: float, axis: str) -> Iterator[Shape]:
    across = _scale([point.position for curve in curves for point in curve.points], LEFT, RIGHT, from_zero=True)
    up = _scale([point.mean for curve in curves for point in curve.points], top + PANEL, top)
    unit = f" ({curves[0].unit})" if curves[0].unit else ""
    yield Words(16, top - 12, f"{curves[0].metric}{unit}", 14, INK, bold=True)
    for tick in up.ticks(5):
        yield Stroke(LEFT, up.at(tick), RIGHT, up.at(tick), GRID, 1)
        yield Words(LEFT - 8, up.at(tick) + 4, _number(tick), 11, FAINT, "end")
    for tick in across.ticks(8):
        yield Words(across.at(tick), top + PANEL + 18, _number(tick), 11, FAINT, "middle")
    yield Words((LEFT + RIGHT) / 2, top + PANEL + 36, axis, 11, FAINT, "middle")
    for curve in curves:
        points = tuple((across.at(point.position), up.at(point.mean)) for point in curve.points)
        dash = DASHES[curve.job // len(COLORS) % 2]
        if len(points) > 1:
            yield Path(points, _color(curve.job), 1.8, dash)
        if len(points) <= 24:
            yield from (Box(x - 2.5, y - 2.5, 5, 5, _color(curve.job)) for x, y in points)


def _intervals(metric: comparison_pb2.ComparedMetric, labels: Sequence[str], *, top: float) -> Iterator[Shape]:
    """A line for each job: its value, and the interval that it lies in with 95 %."""
    unit = f" ({metric.unit})" if metric.unit else ""
    what = "more is better" if metric.higher_is_better else "less is better"
    note = what if metric.comparable else "not compared"
    yield Words(16, top, f"{metric.metric}{unit} in the end, {note}", 14, INK, bold=True)
    ends = [value.value for value in metric.values if value.HasField("value")]
    ends += [
        end
        for value in metric.values
        if value.HasField("interval")
        for end in (value.interval.low, value.interval.high)
    ]
    across = _scale(ends, 320, RIGHT - 150)
    y = top
    for index, value in enumerate(metric.values):
        if not value.HasField("value"):
            continue
        y += ROW
        yield Words(52, y + 4, _cut(labels[index], 34), 12, INK)
        yield _mark(index, 16, 44, y)
        if value.HasField("interval"):
            yield Stroke(across.at(value.interval.low), y, across.at(value.interval.high), y, _color(index), 3)
        yield Box(across.at(value.value) - 4, y - 4, 8, 8, _color(index))
        best = ", best" if metric.HasField("best") and metric.best == index else ""
        yield Words(RIGHT - 136, y + 4, f"{_number(value.value)}{best}", 12, INK)


def _scale(values: Sequence[float], begin: float, end: float, *, from_zero: bool = False) -> _Scale:
    low, high = min(values), max(values)
    if from_zero:
        low = min(0.0, low)
    if high <= low:
        margin = abs(low) * 0.05 or 1.0
        return _Scale(low - margin, high + margin, begin, end)
    margin = 0.0 if from_zero else (high - low) * 0.06
    return _Scale(low - margin, high + margin, begin, end)


def _number(value: float) -> str:
    if value and abs(value) >= 100_000:
        return f"{value:.2g}".replace("e+0", "e").replace("e+", "e")
    return f"{value:.4g}"


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
