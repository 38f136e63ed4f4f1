# SPDX-License-Identifier: Apache-2.0
"""Run one task, from its receipt to its last event: the core's work, its artifacts, its outcome."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.confinement.confine import Confinement
from finetree_data.confinement.measures import summary
from finetree_data.fail_points import fail_point

from finetree_worker.attach.commands import Commands
from finetree_worker.attach.serving import ServingPort
from finetree_worker.attach.stream import ServiceStream
from finetree_worker.control import Control
from finetree_worker.errors import Cancelled, PlanError
from finetree_worker.events.envelope import Level, Payload, Reporter
from finetree_worker.events.journal import Journal
from finetree_worker.events.reporter import JournalReporter
from finetree_worker.plan import Price
from finetree_worker.process import lineage, log_capture, outcome
from finetree_worker.process.artifacts import seal
from finetree_worker.process.confinement import require_readable
from finetree_worker.process.redaction import Redaction

SERVING_PATIENCE_SECONDS = 5.0
"""How long a serving task that has ended waits for a service that is gone."""
_log = logging.getLogger(__name__)


class Core(Protocol):
    """Does the work of tasks. Only the real one imports torch; tests of the process use a scripted one."""

    def warm_up(self) -> None:
        """Import everything that a task needs; returns at once the second time."""

    def profile(self) -> worker_pb2.HostProfile:
        """Measure this machine's matrix rates, in a few seconds."""

    def train(self, task: worker_pb2.Task, reporter: Reporter, control: Control) -> event_pb2.RunSummary:
        """Train to the end; return the core's part of the summary.

        Raises Cancelled when it stopped on request, and TaskError.
        """

    def evaluate(self, task: worker_pb2.Task, reporter: Reporter, control: Control) -> None:
        """Measure trained weights beside their base. Raises like `train`."""

    def prepare(self, task: worker_pb2.Task, reporter: Reporter, control: Control) -> None:
        """Prepare a model and report on a dataset, as far as the task names them. Raises like `train`."""

    def export(self, task: worker_pb2.Task, reporter: Reporter, control: Control) -> None:
        """Merge or write trained weights, and ask what was written. Raises like `train`."""

    def serve(self, task: worker_pb2.Task, reporter: Reporter, *, control: Control, port: ServingPort) -> None:
        """Keep a model loaded and answer what comes through the port, until it is told to end. Raises like `train`."""

    def rest(self, task: worker_pb2.Task) -> worker_pb2.Resting | None:
        """Undo what a training that ended well has left in the process; None where the process must end with it."""


class Sealing:
    """Reporter of the core: seals an artifact before its event is reported, and says how an attempt is confined."""

    def __init__(self, reporter: Reporter, task: worker_pb2.Task, confinement: Confinement | None = None) -> None:
        self._reporter, self._task, self._lineage = reporter, task, lineage.of_task(task)
        self._confined = [] if confinement is None else confinement.holding

    def emit(self, payload: Payload, *, message: str = "", level: Level = event_pb2.EVENT_LEVEL_UNSPECIFIED) -> None:
        """Pass a payload on."""
        if isinstance(payload, event_pb2.ArtifactReady):
            payload = event_pb2.ArtifactReady(artifact=seal(payload.artifact, self._task, self._lineage))
        elif isinstance(payload, event_pb2.AttemptStarted):
            payload.confinement.extend(self._confined)
        self._reporter.emit(payload, message=message, level=level)


def run(
    task: worker_pb2.Task,
    core: Core,
    *,
    reporter: Reporter,
    commands: Commands,
    port: ServingPort,
    confinement: Confinement | None = None,
) -> worker_pb2.TaskOutcome:
    """Do the task's work; every way in which it can end becomes an outcome."""
    try:
        core.warm_up()
        require_readable(task)
        lineage.require_rows(task)
        sealing = Sealing(reporter, task, confinement)
        return outcome.succeeded(_perform(task, core, reporter=sealing, control=commands, port=port))
    except BaseException as error:  # noqa: BLE001 - whatever ends the task is its outcome; nothing else may be lost
        if not isinstance(error, Cancelled):
            _log.error("the task failed", exc_info=error)
        return outcome.failed(error, commands.stop)


def _perform(
    task: worker_pb2.Task, core: Core, *, reporter: Reporter, control: Control, port: ServingPort
) -> event_pb2.RunSummary:
    match task.WhichOneof("task"):
        case "train":
            return core.train(task, reporter, control)
        case "prepare":
            core.prepare(task, reporter, control)
            return event_pb2.RunSummary()
        case "export":
            core.export(task, reporter, control)
            return event_pb2.RunSummary()
        case "evaluate":
            core.evaluate(task, reporter, control)
            return event_pb2.RunSummary()
        case "serve":
            core.serve(task, reporter, control=control, port=port)
            return event_pb2.RunSummary()
        case None:
            text = "This worker does not know the kind of this task."
            raise PlanError("TASK_NOT_SUPPORTED", text, remedy="Upgrade the worker.")


@dataclass(frozen=True, slots=True)
class Ended:
    """End of a task: its kind, whether it is on the disk, and whether the service has it and everything before."""

    kind: worker_pb2.OutcomeKind.ValueType
    written: bool
    stored: bool

    @property
    def well(self) -> bool:
        """Whether another task may follow in the same process: nothing failed, and nobody waits for anything of it."""
        good = self.kind in (worker_pb2.OUTCOME_KIND_SUCCEEDED, worker_pb2.OUTCOME_KIND_CANCELLED)
        return good and self.written and self.stored


def work(
    task: worker_pb2.Task,
    core: Core,
    *,
    stream: ServiceStream,
    commands: Commands,
    log: log_capture.LogCapture,
    confinement: Confinement | None = None,
) -> Ended:
    """Run the task and report it; return how it ended.

    Raises OSError where not even the task's folder can be written.
    """
    journal = Journal(Path(task.folders.work_dir))
    stream.bind(journal)
    with log_capture.logs_of_task(Path(task.folders.work_dir), Redaction.of_task(task)):
        _log.info("%s", "not confined" if confinement is None else summary(confinement.measures))
        ended = _work(task, core, journal=journal, stream=stream, commands=commands, log=log, confinement=confinement)
    journal.close()
    return ended


def _work(
    task: worker_pb2.Task,
    core: Core,
    *,
    journal: Journal,
    stream: ServiceStream,
    commands: Commands,
    log: log_capture.LogCapture,
    confinement: Confinement | None,
) -> Ended:
    price = Price.from_money(task.hourly_price) if task.HasField("hourly_price") else None
    reporter = JournalReporter(
        journal,
        attempt=task.attempt,
        price=price,
        on_written=stream.wake,
        on_phase=_phase_setter(stream),
        on_event=log_capture.log_event,
    )
    log.connect(reporter)
    take_place(task)
    port = stream.serving
    ended = run(task, core, reporter=reporter, commands=commands, port=port, confinement=confinement)
    log.disconnect()
    written = reporter.finish(ended)
    fail_point("outcome.after_write")
    _log.info("the task ended: %s", outcome.line_of(ended))
    # What a serving task has to tell is on the disk; its memory is worth more than an early word of its end.
    stored = stream.drain(SERVING_PATIENCE_SECONDS if task.HasField("serve") else float("inf"))
    stream.close()
    return Ended(ended.kind, written, stored)


def _phase_setter(stream: ServiceStream) -> Callable[[job_pb2.JobPhase.ValueType], None]:
    def set_phase(phase: job_pb2.JobPhase.ValueType) -> None:
        stream.phase = phase

    return set_phase


def take_place(task: worker_pb2.Task) -> None:
    """Restrict this process to the GPUs and the processors of its task.

    CUDA reads its variable on first use, not when torch is imported. By UUID: CUDA counts cards by their speed, the
    service by their place in the machine, and the variable of the service names those of all of its workers.
    """
    if task.gpu_uuids:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(task.gpu_uuids)
    if task.processors:
        bind(task.processors)


def bind(processors: Sequence[int]) -> None:
    """Bind all threads of this process to processors; new ones inherit it. Those of another task are bound anew."""
    for thread in Path("/proc/self/task").iterdir():
        # It has ended meanwhile, or the processors are not there any more: then the scheduler goes on to choose.
        with suppress(OSError):
            os.sched_setaffinity(int(thread.name), processors)
