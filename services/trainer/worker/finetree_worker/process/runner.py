# SPDX-License-Identifier: Apache-2.0
"""One task from its receipt to its last event: plan, core, artifacts, outcome."""

import logging
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2

from finetree_worker.attach.commands import Commands
from finetree_worker.attach.stream import Link
from finetree_worker.errors import Cancelled, PlanError
from finetree_worker.events import types
from finetree_worker.events.convert import Place, Published, Report, Translator
from finetree_worker.events.journal import Journal
from finetree_worker.events.reporter import Reporter
from finetree_worker.plan import TrainPlan
from finetree_worker.plan_from_task import train_plan
from finetree_worker.process import log_capture, outcome
from finetree_worker.process.artifacts import publish

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "finetree-worker")
"""Distributions whose versions decide numbers, hence belong to the execution plan (AttemptStarted.environment)."""

_log = logging.getLogger(__name__)


class TaskReporter(Protocol):
    """Takes the core's events and the reports of splits."""

    def emit(self, event: Report) -> None:
        """Take one event."""


class Core(Protocol):
    """What does the work. Tests put a scripted one in its place; only the real one imports torch."""

    def warm_up(self) -> None:
        """Import everything that a task will need; at once when that is done already."""

    def profile(self) -> worker_pb2.HostProfile:
        """Measure what this machine can do, in a few seconds."""

    def train(self, plan: TrainPlan, reporter: types.Reporter, control: types.Control) -> None:
        """Train to the end. Raises Cancelled when it stopped because it was told to, and TaskError."""

    def prepare(self, task: worker_pb2.Task, reporter: TaskReporter, control: types.Control) -> None:
        """Convert a model and report on a dataset, whichever the task names. Raises like `train`."""

    def compatibility(self, folder: Path, base: Path) -> list[artifact_pb2.Compatibility]:
        """Who loads the artifact in `folder`."""


class Sealing:
    """The reporter that the core sees: an artifact is sealed before it is announced."""

    def __init__(self, reporter: Reporter, task: worker_pb2.Task, core: Core) -> None:
        self._reporter, self._task, self._core = reporter, task, core

    def emit(self, event: Report) -> None:
        """Pass an event on."""
        if not isinstance(event, types.ArtifactReady):
            self._reporter.emit(event)
            return
        folder = Path(event.folder)
        # A report is read by people; nobody loads it.
        loadable = event.kind != "report"
        compat = self._core.compatibility(folder, Path(self._task.model_dir)) if loadable else []
        self._reporter.emit(Published(publish(event, folder, self._task, compat)))


def run(task: worker_pb2.Task, core: Core, reporter: Reporter, commands: Commands) -> worker_pb2.TaskOutcome:
    """Do the task; every way in which it can end becomes an outcome."""
    try:
        core.warm_up()
        _perform(task, core, Sealing(reporter, task, core), commands)
        return outcome.succeeded()
    except BaseException as error:  # noqa: BLE001 - whatever ends the task is its outcome; nothing else may be lost
        if not isinstance(error, Cancelled):
            _log.error("the task failed", exc_info=error)
        return outcome.failed(error, commands.stop)


def _perform(task: worker_pb2.Task, core: Core, reporter: TaskReporter, commands: Commands) -> None:
    if task.kind == job_pb2.TASK_KIND_TRAIN:
        core.train(train_plan(task), reporter, commands)
    elif task.kind == job_pb2.TASK_KIND_PREPARE:
        core.prepare(task, reporter, commands)
    else:
        text = f"This worker does not know tasks of the kind {task.kind}."
        raise PlanError("UNSUPPORTED_TASK", text, remedy="Upgrade the worker.")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process has before it has a task."""

    link: Link
    commands: Commands
    log: log_capture.LogCapture
    node: str


def work(task: worker_pb2.Task, core: Core, around: Surroundings) -> bool:
    """Do the task and report it; whether its outcome is on the disk. Raises OSError when not even its folder can be."""
    link, log = around.link, around.log
    journal = Journal(Path(task.work_dir))
    link.bind(journal)
    own_log = log_capture.own_log(Path(task.work_dir))
    place = Place(f"{around.node}, process {os.getpid()}", environment())
    reporter = Reporter(journal, Translator(task, place), on_written=link.wake, on_phase=_phase_setter(link))
    log.connect(reporter.emit)
    show_device(task.device)
    ended = run(task, core, reporter, around.commands)
    log.disconnect()
    written = reporter.finish(ended)
    link.drain()
    link.close()
    journal.close()
    logging.getLogger().removeHandler(own_log)
    own_log.close()
    return written


def _phase_setter(link: Link) -> Callable[[job_pb2.JobPhase.ValueType], None]:
    def set_phase(phase: job_pb2.JobPhase.ValueType) -> None:
        link.phase = phase

    return set_phase


def environment() -> dict[str, str]:
    """Library versions and machine type: together with the threads, what a bit-equal resume needs."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions | {"machine": platform.machine(), "python": platform.python_version()}


def show_device(device: str) -> None:
    """Let CUDA see the task's device alone; it reads this when it is first used, not when torch is imported."""
    kind, _, index = device.partition(":")
    if kind == "cuda" and index:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", index)
