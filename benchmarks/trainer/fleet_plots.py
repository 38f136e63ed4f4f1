# SPDX-License-Identifier: Apache-2.0
"""Draws what `fleet.py` found: the time of a scheduling round by size, and the walls of one trainer."""

import math
from collections.abc import Iterator
from typing import Any

from finetree_cli.render.chart.memory import Box, Chart, Path, Shape, Stroke, Words
from finetree_cli.render.chart.svg import svg

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 900.0, 90.0, 640.0, 60.0, 330.0
INK, FAINT, GRID, BEFORE = "#1f2933", "#616e7c", "#d9dee4", "#b42318"
COLORS = {1_000: "#8fb8de", 10_000: "#3b78b5", 100_000: "#173f6b"}
"""Color of a line by the number of jobs that wait."""
DEVICES, MILLISECONDS = (100, 10_000), (1, 1_000)
"""Ends of the axes, both logarithmic."""
WALLS = {
    "database_commits": "commits of one PostgreSQL",
    "starts_of_workers": "starts of workers on one Ray cluster",
    "one_core_of_the_trainer": "one core: changes of jobs",
    "scheduling_rounds": "one core: scheduling rounds",
}


def plots(found: dict[str, Any]) -> dict[str, str]:
    """The pictures by the names of their files."""
    return {"fleet-rounds.svg": _rounds(found), "fleet-walls.svg": _walls(found)}


def _x(devices: float) -> float:
    return LEFT + (RIGHT - LEFT) * math.log(devices / DEVICES[0]) / math.log(DEVICES[1] / DEVICES[0])


def _y(milliseconds: float) -> float:
    part = math.log(milliseconds / MILLISECONDS[0]) / math.log(MILLISECONDS[1] / MILLISECONDS[0])
    return BOTTOM - (BOTTOM - TOP) * part


def _rounds(found: dict[str, Any]) -> str:
    title = "CPU time of one scheduling round (median), all devices held"
    shapes: list[Shape] = [Words(16, 30, title, 17, INK, bold=True), *_axes()]
    for jobs, color in COLORS.items():
        line = [each for each in found["sizes"] if each["jobs"] == jobs]
        shapes += _line(line, color, f"{jobs:,} jobs wait")
    shapes += _line(found["before"], BEFORE, "before: 1,000 jobs wait")
    shapes.append(Words((LEFT + RIGHT) / 2, BOTTOM + 42, "devices", 12, FAINT, "middle"))
    return svg(Chart(title, WIDTH, BOTTOM + 60, tuple(shapes)))


def _axes() -> Iterator[Shape]:
    for milliseconds in (1, 10, 100, 1_000):
        yield Stroke(LEFT, _y(milliseconds), RIGHT, _y(milliseconds), GRID, 1)
        yield Words(LEFT - 8, _y(milliseconds) + 4, f"{milliseconds:,} ms", 12, FAINT, "end")
    for devices in (100, 1_000, 10_000):
        yield Stroke(_x(devices), TOP, _x(devices), BOTTOM, GRID, 1)
        yield Words(_x(devices), BOTTOM + 20, f"{devices:,}", 12, FAINT, "middle")


def _line(sizes: list[dict[str, Any]], color: str, name: str) -> Iterator[Shape]:
    points = sorted((_x(each["devices"]), _y(each["round"]["cpu_median_ms"])) for each in sizes)
    if len(points) > 1:
        yield Path(tuple(points), color, 2)
    for x, y in points:
        yield Box(x - 4, y - 4, 8, 8, color)
    if points:
        x, y = points[-1]
        yield Words(x + 12, y + 4, name, 12, color)


def _walls(found: dict[str, Any]) -> str:
    title = "Devices that one trainer can keep busy, by what ends first"
    devices = found["walls"]["devices"]
    scale = (RIGHT - LEFT - 170) / max(devices.values())
    shapes: list[Shape] = [Words(16, 30, title, 17, INK, bold=True)]
    for number, (name, count) in enumerate(devices.items()):
        y = TOP + 12 + 34 * number
        color = BEFORE if number == 0 else COLORS[10_000]
        shapes += [
            Words(LEFT + 160, y + 5, WALLS[name], 13, INK, "end"),
            Box(LEFT + 170, y - 9, max(2.0, count * scale), 18, color),
            Words(LEFT + 180 + count * scale, y + 5, f"{count:,.0f}", 13, INK),
        ]
    note = "one event a second of each job, one commit for each; jobs of 1.65 hours on average"
    y = TOP + 20 + 34 * len(devices)
    shapes.append(Words(16, y, note, 12, FAINT))
    return svg(Chart(title, WIDTH, y + 20, tuple(shapes)))
