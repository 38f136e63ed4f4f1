# SPDX-License-Identifier: Apache-2.0
"""Puts into the object store what the data folder has and it lacks: datasets, checkpoints, artifacts.

What is to be done is found by comparing the two, so that nothing has to be remembered over a restart.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_data.weights import checkpoint
from finetree_data.weights.errors import WeightsError
from finetree_runtime.errors import DomainError, FailedPrecondition
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection, select

from finetree_trainer.joblog.log import Change, EventLog
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies, Unit
from finetree_trainer.store import jobs, schema
from finetree_trainer.store.sealed import Damaged

_PUBLISHED = (
    event_pb2.EVENT_KIND_CHECKPOINT_SAVED,
    event_pb2.EVENT_KIND_ARTIFACT_READY,
    event_pb2.EVENT_KIND_TERMINAL,
)
"""Events after which a job may have something new."""


DATASET, NEWEST, ARTIFACT, OLDER = range(4)
"""The order of units: datasets, the newest checkpoint of each job, artifacts, other checkpoints."""


@dataclass(frozen=True, slots=True)
class _JobFiles:
    """What a job may have on the disk, by its rows; `best_step` is 0 where the best is not kept."""

    artifacts: list[artifact_pb2.Artifact]
    keep: int
    best_step: int


class Uploads:
    """One loop that uploads, one unit after another. `trim` is called when the store has more than before."""

    def __init__(self, log: EventLog, layout: Layout, copies: Copies, trim: Callable[[], Awaitable[None]]) -> None:
        self._log, self._layout, self._copies, self._trim = log, layout, copies, trim
        self._wake = asyncio.Event()
        self._jobs: set[str] = set()
        """Jobs that may have something new."""
        self._settles = False
        """Whether the next look at all of the store is the last one that a change of leader calls for."""
        self.waiting = 0
        """Units that are known to wait for their upload."""
        log.followers.append(self._on_change)

    def wake(self) -> None:
        """Look again: a dataset is ready."""
        self._wake.set()

    def settle(self) -> None:
        """Look at all of the store once more: what the replica that led before has changed to the last is seen."""
        self._settles, self._copies.current = True, False
        self._wake.set()

    def _on_change(self, change: Change[Any]) -> None:
        if any(event.kind in _PUBLISHED for event in change.events):
            self._jobs.add(change.row.uid)
            self._wake.set()

    async def run(self) -> None:
        """Upload until cancelled. Raises DomainError OBJECT_STORE_UNAVAILABLE; begun again, it goes on."""
        self._jobs |= set(await self._log.store.read(_all_jobs))
        while True:
            self._wake.clear()
            await self._round()
            await self._wake.wait()

    async def _round(self) -> None:
        if not self._copies.current:
            settles = self._settles
            await self._copies.learn()
            self._copies.settled |= settles
            self._jobs |= set(await self._log.store.read(_all_jobs))
        chosen, self._jobs = self._jobs, set()
        try:
            units = await self._datasets()
            for uid in sorted(chosen):
                units += await self._of_job(uid)
                units.sort(key=lambda unit: (unit.order, unit.place))
            self.waiting = len(units)
            for unit in units:
                await self._upload(unit)
                self.waiting -= 1
            for uid in chosen:
                await self._rotate(uid)
        except BaseException:
            self._jobs |= chosen
            raise
        if units:
            await self._trim()

    async def _upload(self, unit: Unit) -> None:
        try:
            await self._copies.upload(unit)
        except FailedPrecondition as error:
            get_logger().error("upload_refused", reason=error.reason, path=error.metadata.get("path"))
        except FileNotFoundError:
            pass  # rotated or deleted meanwhile

    async def _datasets(self) -> list[Unit]:
        hashes = await self._log.store.read(_ready_contents)
        places = ((self._layout.dataset_file(sha256), sha256) for sha256 in hashes)
        return [
            Unit(place, {"": sha256})
            for place, sha256 in places
            if self._copies.find(place) is None and place.is_file()
        ]

    async def _of_job(self, uid: str) -> list[Unit]:
        found = await self._log.store.read(partial(_files_of, uid=uid))
        if found is None:
            return []
        units = await asyncio.to_thread(self._checkpoints, uid)
        for artifact in found.artifacts:
            place = self._layout.artifacts(uid, artifact.attempt) / artifact.name.rpartition("/")[2]
            if self._copies.find(place) is None and place.is_dir():
                known = {file.path: file.sha256 for file in artifact.files if file.sha256}
                units.append(Unit(place, known, order=ARTIFACT))
        return units

    def _checkpoints(self, uid: str) -> list[Unit]:
        folder, units = self._layout.checkpoints(uid), []
        for behind, step in enumerate(reversed(checkpoint.steps(folder))):
            place = folder / checkpoint.folder_name(step)
            try:
                found = checkpoint.read_checkpoint(place)
                files = checkpoint.read_json(place / checkpoint.MANIFEST)["files"]
            except (WeightsError, OSError, ValueError):
                continue  # damaged, or rotated a moment ago
            stored = self._copies.find(place)
            if stored is None or stored.files[checkpoint.MANIFEST].sha256 != found.sha256:
                known = {str(name): str(sha256) for name, sha256 in files.items()}
                units.append(Unit(place, known, order=OLDER if behind else NEWEST))
        return units

    async def _rotate(self, uid: str) -> None:
        """Remove the copies of checkpoints that the worker has rotated away.

        That the disk lacks one says nothing: it may be a new disk. By the job's own rule it must be one to go, too.
        """
        folder = self._layout.checkpoints(uid)
        stored = self._copies.steps(folder)
        found = await self._log.store.read(partial(_files_of, uid=uid)) if stored else None
        if found is None or not found.keep:
            return
        there = set(await asyncio.to_thread(checkpoint.steps, folder))
        kept = (await asyncio.to_thread(checkpoint.read_kept, folder)).pinned | {found.best_step} | there
        for step in sorted(stored.keys() | there)[: -found.keep]:
            if step in stored and step not in kept:
                await self._copies.remove(folder / checkpoint.folder_name(step))


def _all_jobs(connection: Connection) -> list[str]:
    return list(connection.execute(select(schema.jobs.c.uid)).scalars())


def _ready_contents(connection: Connection) -> list[str]:
    datasets = schema.datasets.c
    return list(connection.execute(select(datasets.sha256).where(datasets.ready == 1).distinct()).scalars())


def _files_of(connection: Connection, uid: str) -> _JobFiles | None:
    """What a job's rows say of its files; None for one that is gone or damaged."""
    query = select(schema.artifacts.c.record).where(schema.artifacts.c.job_uid == uid)
    records = [record for record in connection.execute(query).scalars() if not isinstance(record, Damaged)]
    try:
        row = jobs.load(connection, uid)
    except DomainError:
        row = None
    if row is None:
        return None
    spec = job_pb2.Job.FromString(row.record).train.spec
    keeps_best = spec.checkpoints.keep_best or spec.evaluation.early_stopping_patience > 0
    return _JobFiles(
        [artifact_pb2.Artifact.FromString(each) for each in records],
        spec.checkpoints.keep,
        job_pb2.Job.FromString(row.snapshot).best_checkpoint_step if keeps_best else 0,
    )
