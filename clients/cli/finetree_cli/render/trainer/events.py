# SPDX-License-Identifier: Apache-2.0
"""Events of a job: a progress bar on a terminal, lines elsewhere, JSON lines with --json."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from finetree.display.events import PHASES, event_line, step_note
from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_cli.output import Output, as_dict, plain
from finetree_cli.render import units
from finetree_cli.render.chart.curve import LossCurve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

CURVE_LINES = 8
"""Lines of a curve; a terminal with less than twice as many shows none."""
WIDEST_CURVE = 110
"""Most columns of a curve."""
LINE_EVERY_SECONDS = 5.0
"""Shortest time between two lines about steps where there is no terminal, so that a log stays readable."""


class View(Protocol):
    """Shows events, of one job or of several, while it is open."""

    def show(self, event: event_pb2.JobEvent) -> None:
        """Show one event."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def view(out: Output) -> View:
    """Return the view for the output."""
    return JsonView(out) if out.json else messages_view(out)


def messages_view(out: Output) -> View:
    """Return the view that writes to stderr alone, so that stdout is the answer's, as JSON too."""
    console = out.console(err=True)
    return BarView(out) if console.is_terminal else LineView(out)


class JsonView:
    """Prints each event as one JSON line on stdout."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def show(self, event: event_pb2.JobEvent) -> None:
        """Print the event."""
        self._out.line(as_dict(event))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LineView(JsonView):
    """Prints each event as a line on stderr; steps and phases only every few seconds."""

    def __init__(self, out: Output, every: float = LINE_EVERY_SECONDS) -> None:
        super().__init__(out)
        self._every = every
        self._last = -every

    def show(self, event: event_pb2.JobEvent) -> None:
        """Print the event, unless a line about steps was printed a moment ago."""
        payload = event.WhichOneof("payload")
        if payload in ("step_metrics", "phase_progress") and not self._is_due(event):
            return
        line = event_line(event)
        if line:
            self._out.say(line)

    def _is_due(self, event: event_pb2.JobEvent) -> bool:
        step = event.step_metrics
        edge = event.WhichOneof("payload") == "step_metrics" and step.step in (1, step.total_steps)
        if not edge and time.monotonic() - self._last < self._every:
            return False
        self._last = time.monotonic()
        return True


class BarView:
    """Shows the curve of the losses and a progress bar for the current phase, and other events above them."""

    def __init__(self, out: Output) -> None:
        self._curve = LossCurve()
        self._progress = _progress(out, self._curve)
        self._task: TaskID | None = None
        self._phase = -1

    def show(self, event: event_pb2.JobEvent) -> None:
        """Update curve and bar, or print the event above them."""
        payload = event.WhichOneof("payload")
        self._curve.add(event)
        if payload == "step_metrics":
            step = event.step_metrics
            self._move(job_pb2.JOB_PHASE_TRAIN, step.step, step.total_steps, step_note(step))
        elif payload == "phase_progress":
            at = event.phase_progress
            done, total = (at.done, at.total) if at.total else (round(at.fraction * 100), 100)
            unit = units.word(event_pb2.ProgressUnit, at.unit) if at.unit else ""
            self._move(at.phase, done, total, unit if at.total else f"{at.done} {unit}" * bool(unit))
        else:
            line = event_line(event)
            if line:
                self._progress.console.print(plain(line), soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _move(self, phase: int, done: int, total: int, note: str) -> None:
        if self._task is None or phase != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(PHASES.get(phase, "working"), total=total, note="")
            self._phase = phase
        self._progress.update(self._task, completed=done, total=total, note=note)


def _progress(out: Output, curve: LossCurve) -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    terminal = out.console(err=True)

    class WithCurve(Progress):
        """The bars below a curve, on a terminal that has the room."""

        def get_renderables(self) -> "Iterator[RenderableType]":
            if curve.drawable and terminal.height >= CURVE_LINES * 2:
                yield curve.text(min(terminal.width, WIDEST_CURVE), CURVE_LINES)
            yield from super().get_renderables()

    return WithCurve(
        TextColumn("{task.description:>20}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=terminal,
        transient=True,
    )
