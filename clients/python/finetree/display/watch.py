# SPDX-License-Identifier: Apache-2.0
"""A job, live: a card that changes in a notebook, a line that changes on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from importlib import import_module
from typing import Any, Protocol, TextIO

from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree.display.card import plain
from finetree.display.cards import job_card
from finetree.display.events import PHASES, event_line, step_note
from finetree.display.notebook import in_notebook

CARD_EVERY = 0.5
"""Shortest time in seconds between two changes of a card: a browser draws each of them."""
LINE_EVERY = 5.0
"""Shortest time in seconds between two lines about steps where nothing is overwritten, so that a log stays readable."""
MOST_POINTS = 256
"""Most points of a curve; of more, every second one is dropped."""
NEWEST = 5
"""Lines below a card."""
BAR = 24
FREQUENT = ("step_metrics", "phase_progress")


class LiveView(Protocol):
    """Shows the events of a job."""

    def show(self, event: event_pb2.JobEvent) -> None:
        """Show one event."""

    def finish(self, job: job_pb2.Job | None) -> None:
        """Show the job as it is at the end; None when the watching ends before the job does."""


def live_view(name: str, snapshot: job_pb2.Job | None, file: TextIO | None) -> LiveView:
    """Choose the view: of a notebook, of a terminal, or lines. With a `file` never that of a notebook."""
    if file is None and in_notebook():
        return NotebookView(LiveJob(name, snapshot))
    stream = file if file is not None else sys.stdout
    # A build server may lend a terminal, whose log then keeps every state of the line.
    terminal = stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
    return TerminalView(stream) if terminal else LineView(stream)


class LiveJob:
    """A job as its events tell it, so that following one asks for nothing else."""

    def __init__(self, name: str, snapshot: job_pb2.Job | None) -> None:
        self.job = job_pb2.Job(name=name)
        if snapshot is not None:
            self.job.CopyFrom(snapshot)
        self.curve: list[float] = []
        self.newest: list[str] = []
        self._every = 1
        self._steps = 0

    def follow(self, event: event_pb2.JobEvent) -> None:
        """Take an event in."""
        job, payload = self.job, event.WhichOneof("payload")
        job.state = event.state or job.state
        job.attempt = event.attempt or job.attempt
        if payload == "step_metrics":
            self._step(event.step_metrics)
        elif payload == "phase_progress":
            job.progress.phase, job.progress.fraction = event.phase_progress.phase, event.phase_progress.fraction
        elif payload == "eval_metrics":
            _copy(event.eval_metrics, "loss", job.metrics, "eval_loss")
            _copy(event.eval_metrics, "exact_match", job.metrics, "exact_match")
        elif payload == "queue_changed":
            queued = event.queue_changed
            job.queue_position, job.blocked_by = queued.position, queued.blocked_by
            if queued.code:
                text = f"Waits: {queued.blocked_by}."
                reason = job_pb2.StateReason(code=queued.code, text=text, remedy=queued.remedy)
                reason.metadata.update(queued.metadata)
                job.state_reason.CopyFrom(reason)
        elif payload == "state_changed":
            job.state_reason.CopyFrom(event.state_changed.reason)
        elif payload == "terminal":
            job.error.CopyFrom(event.terminal.error)
        if payload not in FREQUENT and (line := event_line(event)):
            self.newest = [*self.newest[1 - NEWEST :], line]

    def _step(self, step: event_pb2.StepMetrics) -> None:
        at, metrics = self.job.progress, self.job.metrics
        at.phase, at.step, at.total_steps = job_pb2.JOB_PHASE_TRAIN, step.step, step.total_steps
        at.fraction = step.step / step.total_steps if step.total_steps else 0.0
        at.ClearField("eta_seconds")
        if step.HasField("eta_seconds"):
            at.eta_seconds.CopyFrom(step.eta_seconds)
        metrics.tokens_per_second = step.tokens_per_second
        metrics.peak_memory_bytes = max(metrics.peak_memory_bytes, step.peak_memory_bytes)
        if not step.HasField("loss"):
            return
        metrics.loss = step.loss
        self._steps += 1
        if self._steps % self._every == 0:
            self.curve.append(step.loss)
        if len(self.curve) > MOST_POINTS:
            self.curve, self._every = self.curve[1::2], self._every * 2


class NotebookView:
    """A card that is changed in place."""

    def __init__(self, live: LiveJob) -> None:
        self._live = live
        self._shown = 0.0
        self._handle: Any = import_module("IPython.display").display(self._card(), display_id=True)

    def show(self, event: event_pb2.JobEvent) -> None:
        """Take the event in, and change the card if the last change was a moment ago."""
        self._live.follow(event)
        if time.monotonic() - self._shown >= CARD_EVERY:
            self._update()

    def finish(self, job: job_pb2.Job | None) -> None:
        """Change the card a last time."""
        if job is not None:
            self._live.job = job
        self._update()

    def _update(self) -> None:
        self._shown = time.monotonic()
        self._handle.update(self._card())

    def _card(self) -> Any:
        live = self._live
        return job_card(live.job, curve=tuple(live.curve), notes=tuple(live.newest))


class LineView:
    """A line for each event; those about steps and phases only every few seconds."""

    def __init__(self, stream: TextIO, every: float = LINE_EVERY) -> None:
        self._stream, self._every = stream, every
        self._last = -every

    def show(self, event: event_pb2.JobEvent) -> None:
        """Write the event's line, unless one about steps was written a moment ago."""
        line = event_line(event)
        if line and (event.WhichOneof("payload") not in FREQUENT or self._is_due(event.step_metrics)):
            self._write(f"{plain(line)}\n")

    def finish(self, job: job_pb2.Job | None) -> None:
        """Nothing is left to write."""

    def _is_due(self, step: event_pb2.StepMetrics) -> bool:
        edge = step.step and step.step in (1, step.total_steps)
        if not edge and time.monotonic() - self._last < self._every:
            return False
        self._last = time.monotonic()
        return True

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class TerminalView:
    """The newest step or phase on a line that is overwritten, other events above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""

    def show(self, event: event_pb2.JobEvent) -> None:
        """Overwrite the line, or write the event's own above it."""
        payload = event.WhichOneof("payload")
        if payload == "step_metrics":
            step = event.step_metrics
            share = step.step / step.total_steps if step.total_steps else 0.0
            self._line = f"{_bar(share)} {step.step}/{step.total_steps}  {step_note(step)}"
        elif payload == "phase_progress":
            at = event.phase_progress
            self._line = f"{_bar(at.fraction)} {PHASES.get(at.phase, 'working')}"
        elif line := event_line(event):
            self._write(f"\r\x1b[K{plain(line)}\n")
        self._write(f"\r\x1b[K{plain(self._line)[: shutil.get_terminal_size().columns - 1]}")

    def finish(self, job: job_pb2.Job | None) -> None:
        """Leave the terminal on a line of its own; the bar of a job that has ended goes."""
        self._write("\r\x1b[K" if job is not None or not self._line else "\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _bar(share: float) -> str:
    done = round(BAR * min(1.0, max(0.0, share)))
    return "━" * done + "╌" * (BAR - done)


def _copy(source: Any, field: str, target: Any, name: str) -> None:
    if source.HasField(field):
        setattr(target, name, getattr(source, field))
