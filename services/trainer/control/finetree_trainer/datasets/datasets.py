# SPDX-License-Identifier: Apache-2.0
"""Datasets: uploaded in pieces, validated row by row, stored once for each content."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from finetree_api.trainer.v1 import dataset_pb2
from finetree_data.contract import finding_message, findings_of, to_reading
from finetree_data.fail_points import fail_point
from finetree_data.findings.finding import settled
from finetree_runtime.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from finetree_runtime.ids import ResourceName, uuid7
from finetree_runtime.server.limits.table import Caller
from sqlalchemy import Connection

from finetree_trainer.clock import Clock, timestamp
from finetree_trainer.datasets.contents import Contents
from finetree_trainer.datasets.uploads import Uploads
from finetree_trainer.disk import private_folder, require_space
from finetree_trainer.joblog import states
from finetree_trainer.layout import Layout
from finetree_trainer.limits.quotas import Quotas
from finetree_trainer.objects.copies import Copies
from finetree_trainer.objects.locks import Locks
from finetree_trainer.outages import log_failure
from finetree_trainer.store import datasets, jobs, request_ids
from finetree_trainer.store.database import Store
from finetree_trainer.store.datasets import DatasetRow
from finetree_trainer.store.request_ids import RequestKey, body_hash
from finetree_trainer.worker_user import passage


@dataclass(frozen=True, slots=True)
class Limits:
    """Most bytes of one dataset, and the bytes that stay free on the disk."""

    dataset: int
    reserve: int


class Datasets:
    """The datasets of all projects."""

    def __init__(
        self, store: Store, clock: Clock, layout: Layout, *, copies: Copies, limits: Limits, quotas: Quotas
    ) -> None:
        self._store, self._clock, self._layout, self._limits = store, clock, layout, limits
        self._quotas = quotas
        passage(layout.datasets.resolve(), layout.user)
        private_folder(layout.uploads)
        self.contents = Contents(store, layout, copies)
        self._uploads = Uploads(store, clock, layout, quotas, self.contents)
        self._locks = Locks()
        """One change of a dataset's files at a time: a cut upload may still be closing when the next comes."""

    async def create(self, project: str, owner: str, request: dataset_pb2.CreateDatasetRequest) -> dataset_pb2.Dataset:
        """Start an upload, or return the project's dataset of the same content.

        Raises ResourceExhausted DATASET_TOO_LARGE or DISK_FULL, AlreadyExists REQUEST_ID_REUSED.
        """
        new = self._new_row(project, owner, request)
        key = RequestKey(project, request.request_id, "CreateDataset", body_hash(request, "request_id", "parent"))

        def work(connection: Connection) -> DatasetRow:
            same = datasets.by_content(connection, project, new.sha256)
            known = request_ids.claim(connection, key, (same or new).uid, now=new.create_time)
            if known is not None:
                return _require_row(datasets.load(connection, known.resource))
            if same is not None:
                return same
            self._require_room(connection, new)
            datasets.create(connection, new)
            return new

        return to_message(await self._store.write(work))

    def _require_room(self, connection: Connection, new: DatasetRow) -> None:
        limits = self._limits
        if new.size_bytes > limits.dataset:
            raise _too_large(new.size_bytes, limits.dataset)
        self._quotas.require_bytes(connection, Caller(new.owner, new.project), new.size_bytes)
        require_space(self._layout.uploads, new.size_bytes + limits.reserve)

    async def write(self, uid: str, pieces: AsyncIterator[tuple[int, bytes]], *, caller: Caller) -> dataset_pb2.Dataset:
        """Append pieces (offset, bytes). What has arrived is committed even when the stream is cut.

        With the last byte the hash and the rows are validated. Raises the errors that WriteDataset documents.
        """
        with self._quotas.open.taken("uploads", caller):
            return await self._write(uid, pieces, caller)

    async def _write(self, uid: str, pieces: AsyncIterator[tuple[int, bytes]], caller: Caller) -> dataset_pb2.Dataset:
        async with self._locks.held(uid):
            row = await self._load(uid)
            if row.ready:
                raise FailedPrecondition("DATASET_READY", "The dataset is complete; no bytes are missing.")
            return to_message(await self._uploads.receive(row, pieces, caller))

    async def get(self, uid: str) -> dataset_pb2.Dataset:
        """Return a dataset. Raises NotFound DATASET_NOT_FOUND."""
        return to_message(await self._load(uid))

    async def of_project(self, name: ResourceName, project: str) -> DatasetRow:
        """Return a complete dataset of a project. Raises what `ready` raises, NotFound for another project's too."""
        if not name.project == (await self._load(name.id)).project == project:
            raise dataset_not_found(name.id)
        return await self.ready(name.id)

    async def ready(self, uid: str) -> DatasetRow:
        """Return a complete dataset. Raises NotFound, or FailedPrecondition DATASET_NOT_READY."""
        row = await self._load(uid)
        if not row.ready:
            raise FailedPrecondition(
                "DATASET_NOT_READY",
                f"Dataset {row.uid} has {row.committed_bytes} of {row.size_bytes} bytes; finish the upload.",
                metadata={"committed_bytes": str(row.committed_bytes)},
            )
        return row

    async def page(self, project: str, *, before: str, limit: int) -> list[dataset_pb2.Dataset]:
        """List datasets of a project, newest first, older than the uid `before`."""
        found = await self._store.read(
            lambda connection: datasets.page(connection, project, before=before, limit=limit)
        )
        return [to_message(row) for row in found]

    async def delete(self, uid: str, project: str, *, request_id: str = "") -> None:
        """Delete a dataset; repeated with the same request id it changes nothing.

        Raises NotFound, FailedPrecondition DATASET_IN_USE with the job that needs it.
        """
        key = RequestKey(project, request_id, "DeleteDataset", uid)

        def work(connection: Connection) -> str:
            """Remove the row; return the hash of its content."""
            if request_ids.claim(connection, key, uid, now=self._clock()):
                return ""
            row = datasets.load(connection, uid)
            if row is None or row.project != project:
                raise dataset_not_found(uid)
            user = jobs.user_of_dataset(connection, uid, states.LIVE)
            if user is not None:
                text = f"{user.name} needs this dataset; wait for it or cancel it."
                violations = [(user.name, text, "DATASET_IN_USE")]
                raise FailedPrecondition("DATASET_IN_USE", text, metadata={"job": user.name}, violations=violations)
            datasets.remove(connection, uid)
            return row.sha256

        async with self._locks.held(uid):
            sha256 = await self._store.write(work)
            fail_point("dataset.after_delete")
            await asyncio.to_thread(self._layout.upload_file(uid).unlink, missing_ok=True)
            if sha256:
                try:
                    await self.contents.remove_unused(sha256)
                except Unavailable as error:  # of the object store: the dataset is deleted, a sweep does the rest
                    log_failure(error, doing="remove_dataset_copy")

    async def _load(self, uid: str) -> DatasetRow:
        row = await self._store.read(lambda connection: datasets.load(connection, uid))
        if row is None:
            raise dataset_not_found(uid)
        return row

    def _new_row(self, project: str, owner: str, request: dataset_pb2.CreateDatasetRequest) -> DatasetRow:
        uid, now = str(uuid7()), self._clock()
        record = dataset_pb2.Dataset(
            name=str(ResourceName(project, "datasets", uid)),
            uid=uid,
            display_name=request.display_name,
            reading=request.reading if request.reading.ByteSize() else None,
            size_bytes=request.size_bytes,
            sha256=request.sha256,
            created_by=owner,
            create_time=timestamp(now),
            labels=dict(request.labels),
        )
        return DatasetRow(
            uid=uid,
            project=project,
            owner=owner,
            sha256=request.sha256,
            size_bytes=request.size_bytes,
            committed_bytes=0,
            ready=False,
            create_time=now,
            update_time=now,
            record=record.SerializeToString(),
        )


def to_message(row: DatasetRow) -> dataset_pb2.Dataset:
    """Build the contract's message from a row; of a damaged one, from what its columns say."""
    message = dataset_pb2.Dataset.FromString(row.record)
    if row.damaged:
        message.name, message.uid = str(ResourceName(row.project, "datasets", row.uid)), row.uid
        message.size_bytes, message.sha256, message.created_by = row.size_bytes, row.sha256, row.owner
        message.create_time.CopyFrom(timestamp(row.create_time))
    message.state = dataset_pb2.DATASET_STATE_READY if row.ready else dataset_pb2.DATASET_STATE_UPLOADING
    message.committed_bytes = row.size_bytes if row.ready else row.committed_bytes
    message.update_time.CopyFrom(timestamp(row.update_time))
    found = settled(findings_of(message.findings), to_reading(message.reading))
    del message.findings[:]
    message.findings.extend(map(finding_message, found))
    return message


def _require_row(row: DatasetRow | None) -> DatasetRow:
    if row is None:
        raise FailedPrecondition(
            "DATASET_DELETED", "This request made a dataset that was deleted; use a new request_id."
        )
    return row


def _too_large(size: int, limit: int) -> ResourceExhausted:
    text = f"size_bytes: {size} bytes; a dataset may have {limit}."
    violations = [("size_bytes", text, "DATASET_TOO_LARGE")]
    return ResourceExhausted(
        "DATASET_TOO_LARGE", text, metadata={"limit": "max_upload_bytes", "value": str(limit)}, violations=violations
    )


def dataset_not_found(uid: str) -> NotFound:
    """Build the error for a dataset that does not exist."""
    return NotFound("DATASET_NOT_FOUND", f"There is no dataset {uid!r}; list the datasets to see those that exist.")
