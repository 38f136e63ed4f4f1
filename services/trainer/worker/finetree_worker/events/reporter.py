# SPDX-License-Identifier: Apache-2.0
"""The reporter of a task: payloads go through a queue to a thread that writes the journal.

Training pays for a time stamp and a queue, never for serializing, the disk or the service. For events that others act
upon (a checkpoint, an artifact) `emit` returns only when they are on the disk.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2

from finetree_worker.errors import StorageError
from finetree_worker.events.envelope import Level, Payload, Stamp, envelope
from finetree_worker.events.eta import Forecasts
from finetree_worker.events.journal import OUTCOME_BYTES, Journal
from finetree_worker.events.slowdown import CODE as SLOWER
from finetree_worker.events.summary import Summary
from finetree_worker.plan import Price

QUEUE_LIMIT = 10_000
"""Most events that wait for the writer; beyond it training waits for the disk."""
WRITE_LIMIT = 512
"""Most events of one write."""
_DURABLE = (event_pb2.CheckpointSaved, event_pb2.ArtifactReady, worker_pb2.TaskOutcome)


@dataclass(frozen=True, slots=True)
class _Entry:
    content: Payload | worker_pb2.TaskOutcome
    message: str
    level: Level
    wall_ns: int
    monotonic: float
    written: threading.Event | None


class JournalReporter:
    """Reports into one attempt's journal. `emit` may be called from any thread, `finish` once, at the end."""

    def __init__(
        self,
        journal: Journal,
        *,
        attempt: int,
        price: Price | None = None,
        on_written: Callable[[], object],
        on_phase: Callable[[job_pb2.JobPhase.ValueType], object],
        on_event: Callable[[event_pb2.JobEvent], object] = lambda _: None,
    ) -> None:
        """Name who is told, on the writer's thread.

        `on_written` is called after each write, `on_phase` with the phase of each progress, `on_event` with each event.
        """
        self._journal, self._attempt = journal, attempt
        self._on_written, self._on_phase, self._on_event = on_written, on_phase, on_event
        self._summary, self._forecasts = Summary(), Forecasts(price)
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._began = time.monotonic()
        self._disk_full = False
        self._all_written = self._last_written = True
        self._thread = threading.Thread(target=self._write_all, name="finetree-journal", daemon=True)
        self._thread.start()

    def emit(self, payload: Payload, *, message: str = "", level: Level = event_pb2.EVENT_LEVEL_UNSPECIFIED) -> None:
        """Report a payload. Raises StorageError (DISK_FULL) once the journal can no longer be written."""
        while self._queue.qsize() >= QUEUE_LIMIT and not self._disk_full:
            time.sleep(0.001)
        if self._disk_full or not self._put(payload, message, level):
            raise _disk_is_full()

    def finish(self, outcome: worker_pb2.TaskOutcome) -> bool:
        """Write the outcome as the last record; return whether it is on the disk. Nothing is reported after it."""
        self._put(outcome)
        self._queue.put(None)
        self._thread.join()
        return self._last_written

    def _put(
        self,
        content: Payload | worker_pb2.TaskOutcome,
        message: str = "",
        level: Level = event_pb2.EVENT_LEVEL_UNSPECIFIED,
    ) -> bool:
        written = threading.Event() if isinstance(content, _DURABLE) else None
        self._queue.put(_Entry(content, message, level, time.time_ns(), time.monotonic(), written))
        if written is None:
            return True
        while not written.wait(1.0):
            if not self._thread.is_alive():
                return False
        return self._all_written

    def _write_all(self) -> None:
        while (entry := self._queue.get()) is not None:
            entries = [entry]
            more: _Entry | None = entry
            with contextlib.suppress(queue.Empty):
                while len(entries) < WRITE_LIMIT and (more := self._queue.get_nowait()) is not None:
                    entries.append(more)
            self._write(entries)
            if more is None:
                return

    def _write(self, entries: list[_Entry]) -> None:
        messages = [message for entry in entries for message in self._messages(entry)]
        durable = any(entry.written is not None for entry in entries)
        taken = self._append(messages, durable=durable)
        self._all_written, self._last_written = all(taken), taken[-1]
        self._on_written()
        for entry in entries:
            if entry.written is not None:
                entry.written.set()

    def _append(self, messages: list[worker_pb2.WorkerEvent], *, durable: bool) -> list[bool]:
        """Write the messages; return for each whether it was written."""
        try:
            self._journal.append(messages, durable=durable)
        except OSError:
            # The next emit ends the task. What waits gets one half of the reserve; the other is the outcome's alone,
            # for thousands of events may wait and others may write to the disk too.
            self._disk_full = True
            self._journal.release_reserve(keep=OUTCOME_BYTES)
            return [self._append_one(message) for message in messages]
        return [True] * len(messages)

    def _append_one(self, message: worker_pb2.WorkerEvent) -> bool:
        if message.WhichOneof("body") == "outcome":
            self._journal.release_reserve()
        try:
            self._journal.append([message], durable=True)
        except OSError:
            return False
        return True

    def _messages(self, entry: _Entry) -> Iterator[worker_pb2.WorkerEvent]:
        content, stamp = entry.content, Stamp(entry.wall_ns, entry.monotonic - self._began)
        if isinstance(content, worker_pb2.TaskOutcome):
            # Here, after all earlier events: this thread sums them up.
            content.summary.MergeFrom(self._summary.message(stamp.elapsed))
            yield worker_pb2.WorkerEvent(outcome=content)
            return
        self._summary.add(content, stamp.elapsed)
        if isinstance(content, event_pb2.PhaseProgress):
            self._on_phase(content.phase)
        event = envelope(content, stamp, attempt=self._attempt, message=entry.message, level=entry.level)
        self._on_event(event)
        yield worker_pb2.WorkerEvent(event=event)
        if isinstance(content, event_pb2.Alert) and content.code == SLOWER:
            # What was forecast is known to be wrong; the step that showed it follows.
            self._forecasts.renew()
        if isinstance(content, event_pb2.StepMetrics):
            forecast = self._forecasts.after(content, stamp.elapsed)
            if forecast is not None:
                yield worker_pb2.WorkerEvent(event=envelope(forecast, stamp, attempt=self._attempt))


def _disk_is_full() -> StorageError:
    return StorageError(
        "DISK_FULL",
        "The disk is full: the run's events can no longer be written.",
        remedy="Free space on the disk of the trainer's data; the run then continues from its newest checkpoint.",
    )
