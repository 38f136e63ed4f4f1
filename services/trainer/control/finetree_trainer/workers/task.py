# SPDX-License-Identifier: Apache-2.0
"""The task of a worker, built anew for each attempt from the job's record."""

import os

from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_api.worker.v1 import worker_pb2

from finetree_trainer import estimator, paths
from finetree_trainer.datasets.datasets import Datasets
from finetree_trainer.disk import full_disk_refused, private_folder
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.layout import Layout
from finetree_trainer.models import hub, locate
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.settings import Settings

_KINDS = {
    job_pb2.TASK_KIND_TRAIN: job_pb2.TASK_KIND_TRAIN,
    job_pb2.TASK_KIND_PREPARE: job_pb2.TASK_KIND_PREPARE,
}


class TaskBuilder:
    """Builds the tasks of jobs."""

    def __init__(
        self, log: EventLog, models: locate.Models, datasets: Datasets, *, devices: list[Device], settings: Settings
    ) -> None:
        self._log, self._models, self._datasets = log, models, datasets
        self._threads = {device.id: device.threads for device in devices}
        self._layout, self._settings = Layout(settings.data_dir), settings
        self._hub = hub.hub_access(settings, os.environ)
        private_folder(self._layout.tokens)

    async def build(self, uid: str, device: str) -> worker_pb2.Task:
        """Build a job's task, without what belongs to an attempt. Raises NotFound for inputs that no longer exist."""
        row = await self._log.row(uid)
        record = job_pb2.Job.FromString(row.record)
        model = self._models.relocate(record.spec.model, record.base)
        fetching = record.kind == job_pb2.TASK_KIND_PREPARE and model.home is not None
        cache_bytes = self._settings.token_cache_bytes
        return worker_pb2.Task(
            kind=_KINDS[record.kind],
            job=record.name,
            job_uid=uid,
            spec=record.spec,
            model_dir=str(model.home if fetching else model.folder),
            model_origin=model.origin,
            base_hub_id=model.hub_id,
            base_hub_revision=model.revision,
            dataset_file=await self._file(row.dataset_uid, record.spec.dataset),
            evaluation_file=await self._file(row.evaluation_uid, record.spec.evaluation.dataset),
            device=device,
            threads=self._threads.get(device) or len(os.sched_getaffinity(0)),
            plan_digest=record.plan_digest,
            hub=self._hub if fetching else None,
            hourly_cost=estimator.hourly_cost(record.estimate),
            token_cache_dir=str(self._layout.tokens) if cache_bytes else "",
            token_cache_bytes=cache_bytes,
        )

    def assign(self, task: worker_pb2.Task, attempt: int, token: str) -> worker_pb2.Task:
        """Give a task to an attempt: its number, its secret and its folders, which are made.

        Raises ResourceExhausted DISK_FULL, OSError.
        """
        uid = task.job_uid
        work, artifacts = self._layout.attempt(uid, attempt), self._layout.artifacts(uid, attempt)
        checkpoints = self._layout.checkpoints(uid)
        task.attempt, task.token = attempt, token
        task.work_dir, task.artifact_dir, task.checkpoint_dir = str(work), str(artifacts), str(checkpoints)
        with full_disk_refused():
            for folder in (work, artifacts, checkpoints):
                private_folder(folder)
        return task

    async def _file(self, uid: str, source: training_data_pb2.DatasetSource) -> str:
        if uid:
            return str(self._layout.dataset_file((await self._datasets.ready(uid)).sha256))
        if source.WhichOneof("source") == "path":
            field = "job.spec.dataset.path"
            roots = self._settings.data_roots
            return str(paths.inside(roots, source.path, field_path=field, reason="DATASET_NOT_FOUND"))
        return ""
