# SPDX-License-Identifier: Apache-2.0
"""Loss over steps as text: two curves of braille dots, for a terminal that shows a job live.

A cell of a terminal has 2 x 4 dots (Unicode, block "Braille Patterns", U+2800). Memory is bounded: neighbouring steps
become one point with their mean once there are more than a line has dots for.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetree_api.trainer.v1 import event_pb2

if TYPE_CHECKING:
    from rich.text import Text

BRAILLE = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of each dot of a cell: four rows of two."""
MOST_POINTS = 512
"""Points of a curve beyond which neighbours are joined: more than the dots of a wide line."""
LABEL = 8
"""Columns of the numbers beside a curve."""
TRAINING, EVALUATION = "cyan", "yellow"


@dataclass(slots=True)
class Series:
    """Values by step. `width` steps make one point, the mean of theirs."""

    width: int = 1
    points: dict[int, tuple[float, int]] = field(default_factory=dict)

    def add(self, step: int, value: float) -> None:
        """Add a value; those of this step and later ones, which an earlier attempt had, are dropped."""
        place = step // self.width
        if self.points and next(reversed(self.points)) > place:
            self.points = {known: point for known, point in self.points.items() if known < place}
        total, count = self.points.get(place, (0.0, 0))
        self.points[place] = total + value, count + 1
        if len(self.points) > MOST_POINTS:
            self._halve()

    def means(self) -> list[tuple[int, float]]:
        """(first step, mean) of every point."""
        return [(place * self.width, total / count) for place, (total, count) in self.points.items()]

    def _halve(self) -> None:
        self.width *= 2
        joined: dict[int, tuple[float, int]] = {}
        for place, (total, count) in self.points.items():
            known = joined.get(place // 2, (0.0, 0))
            joined[place // 2] = known[0] + total, known[1] + count
        self.points = joined


@dataclass(slots=True)
class LossCurve:
    """Training and evaluation losses of a job, as its events bring them."""

    training: Series = field(default_factory=Series)
    evaluation: Series = field(default_factory=Series)

    def add(self, event: event_pb2.JobEvent) -> None:
        """Take the losses of an event, if it has any."""
        if event.HasField("step_metrics") and event.step_metrics.HasField("loss"):
            self.training.add(event.step_metrics.step, event.step_metrics.loss)
        elif event.HasField("eval_metrics") and event.eval_metrics.HasField("loss"):
            self.evaluation.add(event.eval_metrics.step, event.eval_metrics.loss)

    @property
    def drawable(self) -> bool:
        """Whether there are two points to draw a line between."""
        return len(self.training.points) + len(self.evaluation.points) > 1

    def text(self, width: int, height: int) -> "Text":
        """Draw both curves into `width` columns and `height` lines, and a line that says which is which."""
        from rich.text import Text

        curves = [(self.training.means(), TRAINING), (self.evaluation.means(), EVALUATION)]
        every = [point for points, _ in curves for point in points]
        steps, values = [step for step, _ in every], [value for _, value in every]
        frame = _Frame(
            min(steps), max(steps), min(values), max(values), columns=max(2, width - LABEL - 1), lines=max(1, height)
        )
        canvases = [(frame.draw(points), style) for points, style in curves if points]
        text = Text()
        for line in range(frame.lines):
            label = {0: frame.high, frame.lines - 1: frame.low}.get(line)
            text.append(f"{label:>{LABEL}.3f} " if label is not None else " " * (LABEL + 1))
            for column in range(frame.columns):
                cell, style = _cell(canvases, line, column)
                text.append(cell, style=style)
            text.append("\n")
        text.append(" " * (LABEL + 1))
        text.append(f"step {frame.first} to {frame.last}")
        for (points, style), name in zip(curves, ("loss", "evaluation loss"), strict=True):
            if points:
                text.append(f"   {name} {points[-1][1]:.3f}", style=style)
        return text


def _cell(canvases: list[tuple[list[list[int]], str]], line: int, column: int) -> tuple[str, str]:
    """Character and style of a cell: dots of both curves, in the color of the later one that has some there."""
    dots, style = 0, ""
    for canvas, color in canvases:
        if canvas[line][column]:
            dots, style = dots | canvas[line][column], color
    return (chr(BRAILLE + dots), style) if dots else (" ", "")


@dataclass(frozen=True, slots=True)
class _Frame:
    """The range of steps and values, and the cells that they are drawn into."""

    first: int
    last: int
    low: float
    high: float
    columns: int
    lines: int

    def draw(self, points: list[tuple[int, float]]) -> list[list[int]]:
        """Dots of a curve, by line and column; neighbouring points are joined by a line."""
        cells = [[0] * self.columns for _ in range(self.lines)]
        places = [self._place(step, value) for step, value in points]
        for here, there in zip(places, places[1:] or places, strict=False):
            for x, y in _line(here, there):
                cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
        return cells

    def _place(self, step: int, value: float) -> tuple[int, int]:
        across = (step - self.first) / max(1, self.last - self.first)
        up = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(across * (self.columns * 2 - 1)), round((1 - up) * (self.lines * 4 - 1))


def _line(here: tuple[int, int], there: tuple[int, int]) -> list[tuple[int, int]]:
    """Dots from one place to another."""
    length = max(abs(there[0] - here[0]), abs(there[1] - here[1]), 1)
    return [
        (
            round(here[0] + (there[0] - here[0]) * part / length),
            round(here[1] + (there[1] - here[1]) * part / length),
        )
        for part in range(length + 1)
    ]
