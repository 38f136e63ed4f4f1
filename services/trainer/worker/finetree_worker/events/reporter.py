# SPDX-License-Identifier: Apache-2.0
"""Where a task's events go: the training thread drops them into a queue, a thread of its own writes the journal.

Training pays for a time stamp and a queue, never for serializing, the disk or the service. Events that others act upon
(a checkpoint, an artifact) return only when they are on the disk.
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
from finetree_worker.events import types
from finetree_worker.events.convert import LogLine, Published, Report, Stamp, Translator, phase_of
from finetree_worker.events.journal import OUTCOME_BYTES, Journal

QUEUE_LIMIT = 10_000
"""Events that wait for the writer; beyond it training waits for its own disk, as it must."""
WRITE_LIMIT = 512
"""Events of one write."""
_DURABLE = (types.CheckpointSaved, Published, worker_pb2.TaskOutcome)


@dataclass(frozen=True, slots=True)
class _Entry:
    content: Report | worker_pb2.TaskOutcome
    wall_ns: int
    monotonic: float
    written: threading.Event | None


class Reporter:
    """The core's `Reporter`, over one journal. `emit` may be called from any thread, `finish` once, at the end."""

    def __init__(
        self,
        journal: Journal,
        translator: Translator,
        *,
        on_written: Callable[[], object],
        on_phase: Callable[[job_pb2.JobPhase.ValueType], object],
    ) -> None:
        """In the writer's thread, `on_written` is called after each write, `on_phase` when a phase goes on."""
        self._journal, self._translator = journal, translator
        self._on_written, self._on_phase = on_written, on_phase
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._began = time.monotonic()
        self._disk_full = False
        self._all_written = self._last_written = True
        self._thread = threading.Thread(target=self._write_all, name="finetree-journal", daemon=True)
        self._thread.start()

    def emit(self, event: Report) -> None:
        """Take one event. Raises StorageError (DISK_FULL) once the journal can no longer be written."""
        while self._queue.qsize() >= QUEUE_LIMIT and not self._disk_full:
            time.sleep(0.001)
        if self._disk_full or not self._put(event):
            raise _disk_is_full()

    def finish(self, outcome: worker_pb2.TaskOutcome) -> bool:
        """Write the last event, which says how the task ended; whether it is on the disk. Nothing is taken after it."""
        outcome.summary.CopyFrom(self._translator.record.summary(time.monotonic() - self._began))
        self._put(outcome)
        self._queue.put(None)
        self._thread.join()
        return self._last_written

    def _put(self, content: Report | worker_pb2.TaskOutcome) -> bool:
        written = threading.Event() if isinstance(content, _DURABLE) else None
        self._queue.put(_Entry(content, time.time_ns(), time.monotonic(), written))
        if written is None:
            return True
        written.wait()
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
        """Write the messages; for each, whether the disk took it."""
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
        if isinstance(entry.content, worker_pb2.TaskOutcome):
            yield worker_pb2.WorkerEvent(outcome=entry.content)
            return
        if isinstance(entry.content, types.PhaseProgress):
            self._on_phase(phase_of(entry.content.phase))
        for event in self._translated(entry.content, entry):
            yield worker_pb2.WorkerEvent(event=event)

    def _translated(self, report: Report, entry: _Entry) -> list[event_pb2.JobEvent]:
        stamp = Stamp(entry.wall_ns, entry.monotonic - self._began)
        try:
            return list(self._translator.translate(report, stamp))
        except (KeyError, TypeError, ValueError) as error:
            # A value that the contract cannot hold must cost its event, not all that follow.
            text = f"an event of the kind {type(report).__name__} could not be reported: {type(error).__name__}"
            line = LogLine(types.Level.ERROR, "finetree_worker.events.reporter", text)
            return list(self._translator.translate(line, stamp))


def _disk_is_full() -> StorageError:
    return StorageError(
        "DISK_FULL",
        "The disk is full: the events of the run can no longer be written.",
        remedy="Free space on the disk that holds the trainer's data; the run goes on from its newest checkpoint.",
    )
