# SPDX-License-Identifier: Apache-2.0
"""Jobs of one batch: progress of all of them together, and the table at the end."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from finetree.display.events import PHASES, event_line, step_note
from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_cli.output import Output, plain, short_name
from finetree_cli.render import units
from finetree_cli.render.trainer.events import LINE_EVERY_SECONDS, View
from finetree_cli.render.trainer.jobs import state_name

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A file of a batch at its end."""

    file: str
    job: job_pb2.Job | None
    refused: str
    """Reason why there is no job, "" where nothing is wrong."""
    checked: bool
    best_loss: float | None
    of_evaluation: bool
    artifacts: Sequence[str]


def batch_view(out: Output, names: Mapping[str, str]) -> View:
    """Return the view: a bar for each job on a terminal, lines elsewhere; `names` are what jobs are called."""
    console = out.console(err=True)
    return BatchBars(out, names) if console.is_terminal and not out.json else BatchLines(out, names)


class BatchLines:
    """Prints each event as a line that begins with the job's file; steps and phases only every few seconds."""

    def __init__(self, out: Output, names: Mapping[str, str], every: float = LINE_EVERY_SECONDS) -> None:
        self._out, self._names, self._every = out, names, every
        self._last: dict[str, float] = {}

    def show(self, event: event_pb2.JobEvent) -> None:
        """Print the event, unless a line about the job's steps was printed a moment ago."""
        if event.WhichOneof("payload") in ("step_metrics", "phase_progress"):
            now = time.monotonic()
            if now - self._last.get(event.job, -self._every) < self._every:
                return
            self._last[event.job] = now
        line = event_line(event)
        if line:
            self._out.say(f"{self._names.get(event.job, short_name(event.job))}: {line}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class BatchBars:
    """Shows a bar for each job, in the order of the batch; alerts and failures above them."""

    def __init__(self, out: Output, names: Mapping[str, str]) -> None:
        self._names = names
        self._progress = _progress(out)
        width = max((len(name) for name in names.values()), default=0)
        self._bars = {
            job: self._progress.add_task(plain(name).ljust(width), total=None, note="queued")
            for job, name in names.items()
        }

    def show(self, event: event_pb2.JobEvent) -> None:
        """Move the bar of the event's job, or print the event above the bars."""
        bar = self._bars.get(event.job)
        if bar is None:
            return
        payload = event.WhichOneof("payload")
        if payload == "step_metrics":
            step = event.step_metrics
            self._progress.update(bar, completed=step.step, total=step.total_steps, note=step_note(step))
        elif payload == "phase_progress":
            at = event.phase_progress
            note = f"{PHASES.get(at.phase, 'working')} {at.fraction:.0%}"
            self._progress.update(bar, note=note)
        elif payload == "terminal":
            self._progress.update(bar, total=1, completed=1, note=state_name(event.terminal.state))
            self._progress.stop_task(bar)
        elif payload == "state_changed":
            self._progress.update(bar, note=state_name(event.state))
        if payload == "alert" or (payload == "terminal" and event.terminal.state == job_pb2.JOB_STATE_FAILED):
            name = self._names.get(event.job, "")
            self._progress.console.print(plain(f"{name}: {event_line(event)}"), soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def show_batch(out: Output, rows: Sequence[BatchRow]) -> None:
    """Print what has become of each file: state, best loss, time, cost and artifact."""
    cells = [
        (
            row.file,
            short_name(row.job.name) if row.job is not None else "-",
            _state(row),
            _loss(row),
            _seconds(row.job),
            units.money(row.job.cost.amount) if row.job is not None and row.job.cost.HasField("amount") else "-",
            ", ".join(row.artifacts) or "-",
        )
        for row in rows
    ]
    out.table(["File", "Job", "State", ">Best loss", ">Time", ">Cost", "Artifacts"], cells)


def _state(row: BatchRow) -> str:
    if row.refused:
        return f"refused: {row.refused}"
    if row.job is not None:
        return state_name(row.job.state)
    return "checked" if row.checked else "not queued"


def _loss(row: BatchRow) -> str:
    if row.best_loss is None:
        return "-"
    return f"{row.best_loss:.3f}{' (evaluation)' if row.of_evaluation else ''}"


def _seconds(job: job_pb2.Job | None) -> str:
    if job is None or not job.HasField("start_time") or not job.HasField("end_time"):
        return "-"
    return units.duration((job.end_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9)


def _progress(out: Output) -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=out.console(err=True),
        transient=True,
    )
