# SPDX-License-Identifier: Apache-2.0
"""What a worker is told to do, built anew for each attempt from the job's record."""

import os
from pathlib import Path

from finetree_api.trainer.v1 import job_pb2, worker_pb2
from finetree_api.types.v1 import run_spec_pb2

from finetree_trainer import estimator, paths
from finetree_trainer.datasets.datasets import Datasets
from finetree_trainer.disk import full_disk_refused
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.models import hub, locate
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.settings import Settings
from finetree_trainer.store.database import private_folder

_KINDS = {
    job_pb2.JOB_KIND_TRAIN: worker_pb2.TASK_KIND_TRAIN,
    job_pb2.JOB_KIND_PREPARE: worker_pb2.TASK_KIND_PREPARE,
}


class Tasks:
    """Builds tasks, and owns the layout of a job's folder.

    jobs/{uid}/checkpoints                 shared by the attempts: each goes on from the newest that is whole
    jobs/{uid}/attempts/{attempt}          an attempt's segment and log
    jobs/{uid}/attempts/{attempt}/artifacts/{artifact}
    """

    def __init__(
        self, log: EventLog, models_: locate.Models, datasets: Datasets, devices: list[Device], settings: Settings
    ) -> None:
        self._log, self._models, self._datasets = log, models_, datasets
        self._threads = {device.id: device.threads for device in devices}
        self._jobs = private_folder(settings.data_dir / "jobs")
        self._data_roots, self._hub = settings.data_roots, hub.access(settings, os.environ)
        self._token_cache = private_folder(settings.data_dir / "tokens")
        self._token_cache_bytes = settings.token_cache_bytes

    def work_dir(self, uid: str, attempt: int) -> Path:
        """The folder of an attempt."""
        return self._jobs / uid / "attempts" / str(attempt)

    def artifact_dir(self, uid: str, attempt: int) -> Path:
        """The folder of what an attempt makes: its own, so that an attempt that lives on spoils no other's."""
        return self.work_dir(uid, attempt) / "artifacts"

    def threads(self, device: str) -> int:
        """Threads of a job on a device."""
        return self._threads.get(device) or len(os.sched_getaffinity(0))

    async def build(self, uid: str, device: str, threads: int) -> worker_pb2.Task:
        """A job's task, without what belongs to an attempt. Raises NotFound for inputs that are no longer there."""
        row = await self._log.row(uid)
        record = job_pb2.Job.FromString(row.record)
        model = self._models.again(record.spec.model, record.base)
        fetching = record.kind == job_pb2.JOB_KIND_PREPARE and model.home is not None
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
            threads=threads or self.threads(device),
            plan_digest=record.plan_digest,
            hub=self._hub if fetching else None,
            hourly_cost=estimator.hourly_cost(record.estimate),
            token_cache_dir=str(self._token_cache) if self._token_cache_bytes else "",
            token_cache_bytes=self._token_cache_bytes,
        )

    def place(self, task: worker_pb2.Task, attempt: int, token: str) -> worker_pb2.Task:
        """Give a task to an attempt: its number, secret and folders, which are made."""
        work, artifacts = self.work_dir(task.job_uid, attempt), self.artifact_dir(task.job_uid, attempt)
        checkpoints = self._jobs / task.job_uid / "checkpoints"
        task.attempt, task.token = attempt, token
        task.work_dir, task.artifact_dir, task.checkpoint_dir = str(work), str(artifacts), str(checkpoints)
        with full_disk_refused():
            for folder in (work, artifacts, checkpoints):
                private_folder(folder)
        return task

    async def _file(self, uid: str, source: run_spec_pb2.DatasetSource) -> str:
        if uid:
            return str(self._datasets.content((await self._datasets.ready(uid)).sha256))
        if source.WhichOneof("source") == "path":
            field = "job.spec.dataset.path"
            return str(paths.inside(self._data_roots, source.path, field_path=field, reason="DATASET_NOT_FOUND"))
        return ""
