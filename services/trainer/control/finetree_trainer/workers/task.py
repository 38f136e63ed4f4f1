# SPDX-License-Identifier: Apache-2.0
"""The task of a worker, built anew for each attempt from the job's record."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from finetree_api.trainer.v1 import event_pb2, job_pb2, serving_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_runtime.errors import DomainError
from sqlalchemy import Connection

from finetree_trainer import estimator, paths
from finetree_trainer.datasets.datasets import Datasets
from finetree_trainer.disk import full_disk_refused
from finetree_trainer.estimator import Rates
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.layout import Layout
from finetree_trainer.models import hub, locate
from finetree_trainer.models.weights import WeightsLocator
from finetree_trainer.scheduling.devices import CPU, Device, Slot, placements
from finetree_trainer.scheduling.machine.cores import usable_cores
from finetree_trainer.settings import Settings
from finetree_trainer.store import events
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.worker_user import own_folder, passage
from finetree_trainer.workers import lost_time

_INIT_FROM = "job.train.spec.init_from"
"""Field path in errors about the weights that a job starts from."""
_CHANGES = events.kinds_mask((event_pb2.EVENT_KIND_STATE_CHANGED,))


class TaskBuilder:
    """Builds the tasks of jobs."""

    def __init__(
        self,
        log: EventLog,
        models: locate.Models,
        datasets: Datasets,
        *,
        weights: WeightsLocator,
        devices: Sequence[Device],
        rates: Rates,
        layout: Layout,
        settings: Settings,
    ) -> None:
        self._rates = rates
        self._log, self._models, self._datasets, self._weights = log, models, datasets, weights
        self._devices = devices
        self.slot_threads = max((each.threads for each in devices if each.id == CPU), default=1)
        """Threads of a CPU slot: what the libraries of a worker begin with, before it has a task."""
        # A worker has another working directory than the service: its folders must not depend on it.
        self._layout, self._settings = replace(layout, root=layout.root.absolute()), settings
        self._hub = hub.hub_access(settings, os.environ)

    async def build(self, uid: str, slots: Sequence[Slot]) -> worker_pb2.Task:
        """Build the task of a job on its slots, without what belongs to an attempt.

        Raises NotFound for inputs that no longer exist, and the errors of trained weights that CreateJob documents.
        """
        row = await self._log.row(uid)
        record = job_pb2.Job.FromString(row.record)
        task = worker_pb2.Task(
            job=record.name,
            job_uid=uid,
            placements=placements(slots),
            threads=sum(device.threads for device in self._of(slots)) or usable_cores(),
            plan_digest=record.plan_digest,
            lineage=record.lineage,
            hourly_price=estimator.hourly_price(record.estimate),
            attempt_reason=await self._log.store.read(partial(_attempt_reason, row=row)),
            processors=[number for slot in slots for number in self._processors_of(slot)],
            gpu_uuids=[device.uuid for device in self._of(slots) if device.uuid],
        )
        if record.WhichOneof("task") == "export":
            await self._set_export(task, record, row)
        elif record.WhichOneof("task") == "prepare":
            prepare = record.prepare
            task.prepare.CopyFrom(prepare)
            task.dataset_file = await self._file(row.dataset_uid, prepare.dataset)
            task.evaluation_file = await self._file(row.evaluation_uid, prepare.evaluation_dataset)
            if prepare.HasField("model"):
                self._set_model(task, record, fetching=True)
        elif record.WhichOneof("task") == "evaluate":
            asked = record.evaluate
            task.evaluate.CopyFrom(asked)
            task.dataset_file = await self._file(row.dataset_uid, asked.few_shot.dataset)
            task.evaluation_file = await self._file(row.evaluation_uid, asked.dataset)
            self._set_model(task, record, fetching=False)
            for i, subject in enumerate(asked.subjects):
                # With the hash that the job has: other weights in their place are refused.
                place = f"job.evaluate.subjects[{i}].weights"
                found = await self._weights.locate(row.project, subject.weights, place)
                task.weights.append(found.message(subject.label))
        elif record.WhichOneof("task") == "serve":
            await self._set_serving(task, record, row)
        else:
            spec = record.train.spec
            _set_training(task, record)
            if record.estimate.HasField("step_seconds"):
                task.step_seconds.CopyFrom(record.estimate.step_seconds)
            if (rates := self._rates()) is not None:
                task.matrix_rates.CopyFrom(rates)
            task.dataset_file = await self._file(row.dataset_uid, spec.dataset)
            task.evaluation_file = await self._file(row.evaluation_uid, spec.evaluation.dataset)
            self._set_model(task, record, fetching=False)
            if spec.HasField("init_from"):
                # With the hash that the plan has: other weights in their place are refused.
                found = await self._weights.locate(row.project, spec.init_from, _INIT_FROM)
                task.weights.append(found.message("init_from"))
        return task

    def _of(self, slots: Sequence[Slot]) -> list[Device]:
        """The devices of slots; of an attempt that an earlier run of the service began, those that are still here."""
        here = {device.place: device for device in self._devices}
        places = [(slot.node, slot.device) for slot in slots]
        return [here[place] for place in places if place in here]

    def _processors_of(self, slot: Slot) -> tuple[int, ...]:
        return next((device.processors_of(slot) for device in self._of((slot,))), ())

    async def _set_export(self, task: worker_pb2.Task, record: job_pb2.Job, row: JobRow) -> None:
        """Locate what is exported, its base and the rows that are asked; rows that are gone are not asked."""
        export = record.export
        task.export.CopyFrom(export)
        located = await self._weights.locate(row.project, export.weights, "job.export.weights")
        task.weights.append(located.message("export"))
        folder = located.folder
        if export.HasField("base"):
            folder = self._models.relocate(export.base, record.base).folder
        task.base.CopyFrom(
            worker_pb2.TaskBaseModel(
                model_dir=str(folder), hub_id=record.base.hub_id, hub_revision=record.base.revision
            )
        )
        if export.HasField("prompts"):
            task.dataset_file = await self._file(row.dataset_uid, export.prompts)
        elif located.spec is not None:
            with suppress(DomainError):
                task.evaluation_file = await self._file(row.evaluation_uid, located.spec.evaluation.dataset)
            if not task.evaluation_file:
                with suppress(DomainError):
                    task.dataset_file = await self._file(row.dataset_uid, located.spec.dataset)

    async def _set_serving(self, task: worker_pb2.Task, record: job_pb2.Job, row: JobRow) -> None:
        """Set what is served: the targets of the worker before, where one was ready, else those of the creation."""
        task.serve.CopyFrom(record.serve)
        snapshot = job_pb2.Job.FromString(row.snapshot)
        if snapshot.HasField("serve"):
            loaded = snapshot.serve.loaded
            del task.serve.targets[:]
            task.serve.targets.extend(serving_pb2.ServeTarget(name=it.name, weights=it.weights) for it in loaded)
        for index, target in enumerate(task.serve.targets):
            found = await self._weights.locate(row.project, target.weights, f"job.serve.targets[{index}].weights")
            task.weights.append(found.message(target.name))
        self._set_model(task, record, fetching=False)

    def _set_model(self, task: worker_pb2.Task, record: job_pb2.Job, *, fetching: bool) -> None:
        source = locate.model_of(record)
        model = self._models.relocate(source, record.base)
        from_hub = fetching and model.home is not None
        task.base.CopyFrom(
            worker_pb2.TaskBaseModel(
                model_dir=str(model.home if from_hub else model.folder),
                origin=model.origin,
                hub_id=model.hub_id,
                hub_revision=model.revision,
            )
        )
        if from_hub:
            task.hub.CopyFrom(self._hub)

    def assign(self, task: worker_pb2.Task, attempt: int, token: str) -> worker_pb2.Task:
        """Give a task to an attempt: its number, its secret and its folders."""
        work, artifacts, checkpoints = self._folders(task.job_uid, attempt)
        cache_bytes = self._settings.token_cache_bytes
        task.attempt, task.token = attempt, token
        task.folders.CopyFrom(
            worker_pb2.TaskFolders(
                work_dir=str(work),
                artifact_dir=str(artifacts),
                checkpoint_dir=str(checkpoints),
                token_cache_dir=str(self._layout.tokens) if cache_bytes else "",
                token_cache_bytes=cache_bytes,
            )
        )
        return task

    def make_folders(self, uid: str, attempt: int) -> None:
        """Make the folders of an attempt, those that are there excepted.

        Raises ResourceExhausted DISK_FULL, OSError.
        """
        layout = self._layout
        with full_disk_refused():
            for folder in (layout.job(uid), layout.attempt(uid, attempt).parent):
                passage(folder, layout.user)
            for folder in self._folders(uid, attempt):
                own_folder(folder, layout.user)

    def _folders(self, uid: str, attempt: int) -> tuple[Path, Path, Path]:
        layout = self._layout
        return layout.attempt(uid, attempt), layout.artifacts(uid, attempt), layout.checkpoints(uid)

    async def _file(self, uid: str, source: training_data_pb2.DatasetSource) -> str:
        if uid:
            return str((await self._datasets.contents.file((await self._datasets.ready(uid)).sha256)).absolute())
        if source.WhichOneof("source") == "path":
            field = "job.dataset.path"
            roots = self._settings.data_roots
            return str(paths.inside(roots, source.path, field_path=field, reason="DATASET_NOT_FOUND"))
        return ""


def _set_training(task: worker_pb2.Task, record: job_pb2.Job) -> None:
    """Set the run, and how often it saves: by the time that may be lost, unless the spec counts steps."""
    task.train.spec.CopyFrom(record.train.spec)
    if record.limits.HasField("max_lost_time"):
        task.max_lost_time.CopyFrom(record.limits.max_lost_time)
        if lost_time.counts_no_steps(record.train):
            task.train.spec.checkpoints.every_steps = 0


def _attempt_reason(connection: Connection, row: JobRow) -> event_pb2.AttemptReason.ValueType:
    """Return why an attempt follows earlier ones, where the job's states show that: of one that waits, its next one.

    An attempt that has begun under an earlier run of the service is told what it would have been told by that one.
    """
    before = row.state
    if row.state not in states.WAITING:
        with suppress(DomainError):  # of a damaged log it is not told
            found, _ = events.read_before(connection, row.uid, row.last_seq + 1, after=0, mask=_CHANGES, blocks=4)
            began = next((e for e in found if e.state_changed.current == job_pb2.JOB_STATE_PREPARING), None)
            before = began.state_changed.previous if began is not None else before
    resumed = before == job_pb2.JOB_STATE_QUEUED and row.attempt > (row.state not in states.WAITING)
    return event_pb2.ATTEMPT_REASON_RESUMED if resumed else event_pb2.ATTEMPT_REASON_UNSPECIFIED
