# SPDX-License-Identifier: Apache-2.0
"""The method comparison as a picture: accuracy by task and method, its spread, and the playbook's claim beside it."""

from collections.abc import Iterator

from finetree_cli.render.chart.memory import Box, Chart, Shape, Stroke, Words
from finetree_cli.render.chart.svg import svg
from method_statistics import Summary

WIDTH, LEFT, RIGHT = 980.0, 110.0, 620.0
"""The picture, and where the axis of 0 to 100 % begins and ends."""
TOP, ROW, GAP = 60.0, 28.0, 58.0
INK, FAINT, GRID, BAR, CLAIM = "#1f2933", "#616e7c", "#d9dee4", "#8fb8de", "#b7791f"


def plot(found: list[Summary], tasks: dict[str, str], claims: dict[str, int]) -> str:
    """The SVG: a panel for each task. `claims` are the playbook's percents of what full fine-tuning reaches."""
    title = "What five methods learn from the same rows"
    shapes: list[Shape] = [Words(16, 30, title, 17, INK, bold=True)]
    top = TOP
    for task, about in tasks.items():
        rows = [summary for summary in found if summary.task == task]
        if rows:
            shapes += _panel(rows, about, claims, top)
            top += GAP + ROW * len(rows)
    legend = (
        "bar: mean; thin line: lowest to highest seed; grey: before training; ochre: the playbook's share of full's"
    )
    shapes.append(Words(LEFT, top + 4, legend, 12, FAINT))
    return svg(Chart(title, WIDTH, top + 22, tuple(shapes)))


def _at(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * share


def _panel(rows: list[Summary], about: str, claims: dict[str, int], top: float) -> Iterator[Shape]:
    bottom = top + 20 + ROW * len(rows)
    yield Words(16, top - 6, about[0].upper() + about[1:], 13, INK, bold=True)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield Stroke(_at(tick), top + 18, _at(tick), bottom, GRID, 1)
        yield Words(_at(tick), top + 13, f"{tick:.0%}", 11, FAINT, "middle")
    full = next((row.accuracy for row in rows if row.method == "full"), None)
    for number, row in enumerate(rows):
        yield from _line(row, full, claims, top + 20 + ROW * (number + 0.5))


def _line(row: Summary, full: float | None, claims: dict[str, int], y: float) -> Iterator[Shape]:
    yield Words(LEFT - 10, y + 4, row.method, 13, INK, "end")
    yield Box(LEFT, y - 7, max(_at(row.accuracy) - LEFT, 1), 14, BAR)
    yield Stroke(_at(row.accuracy_lowest), y, _at(row.accuracy_highest), y, INK, 2)
    yield Stroke(_at(row.accuracy_before), y - 7, _at(row.accuracy_before), y + 7, FAINT, 2)
    if full is not None:
        claimed = _at(full * claims[row.method] / 100)
        yield Stroke(claimed, y - 11, claimed, y + 11, CLAIM, 2)
    yield Words(RIGHT + 14, y + 4, _note(row), 12, INK)


def _note(row: Summary) -> str:
    parts = [f"{row.accuracy:.1%}", f"{row.trainable_share:.2%} trained", f"{row.peak_bytes / 1e9:.1f} GB"]
    return ", ".join(parts + ([f"{row.seconds:.0f} s"] if row.seconds else []))
