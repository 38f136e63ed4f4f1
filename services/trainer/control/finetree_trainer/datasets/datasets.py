# SPDX-License-Identifier: Apache-2.0
"""Datasets: uploaded in pieces, checked row by row, kept once for each content."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.errors import FailedPrecondition, NotFound, ResourceExhausted
from finetree_runtime.ids import ResourceName, uuid7
from sqlalchemy import Connection

from finetree_trainer.datasets.uploads import Uploads
from finetree_trainer.disk import require_space
from finetree_trainer.idempotency import body_hash
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import Clock
from finetree_trainer.joblog.transaction import timestamp
from finetree_trainer.store import datasets, jobs
from finetree_trainer.store.database import Store, private_folder
from finetree_trainer.store.datasets import DatasetRow


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of one dataset, of a project's datasets, and what stays free on the disk."""

    dataset: int
    project: int
    reserve: int


class Datasets:
    """The datasets of all projects."""

    def __init__(self, store: Store, clock: Clock, data_dir: Path, limits: Limits) -> None:
        self._store, self._clock, self._limits = store, clock, limits
        self._contents = private_folder(data_dir / "datasets")
        self._uploads = Uploads(store, clock, private_folder(data_dir / "uploads"), self.content)
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def content(self, sha256: str) -> Path:
        """The file of a content."""
        return self._contents / f"{sha256}.jsonl"

    async def create(self, project: str, owner: str, request: dataset_pb2.CreateDatasetRequest) -> dataset_pb2.Dataset:
        """Start an upload, or give the dataset that the project has of the same content.

        Raises ResourceExhausted DATASET_TOO_LARGE or DISK_FULL, AlreadyExists REQUEST_ID_REUSED.
        """
        fresh = self._fresh(project, owner, request)
        limits = self._limits

        def work(connection: Connection) -> DatasetRow:
            same = datasets.by_content(connection, project, fresh.sha256)
            known = jobs.claim_request_id(
                connection,
                project,
                request.request_id,
                method="CreateDataset",
                body_hash=body_hash(request, "request_id", "parent"),
                resource=(same or fresh).uid,
                now=fresh.create_time,
            )
            if known is not None:
                return _still_there(datasets.load(connection, known))
            if same is not None:
                return same
            if fresh.size_bytes > limits.dataset:
                raise _too_large("size_bytes", fresh.size_bytes, limits.dataset, "a dataset")
            used = datasets.bytes_of_project(connection, project) + fresh.size_bytes
            if used > limits.project:
                raise _too_large("size_bytes", used, limits.project, "the datasets of a project")
            require_space(self._uploads.folder, fresh.size_bytes + limits.reserve)
            datasets.create(connection, fresh)
            return fresh

        return to_message(await self._store.write(work))

    async def write(self, uid: str, pieces: AsyncIterator[tuple[int, bytes]]) -> dataset_pb2.Dataset:
        """Append pieces (offset, bytes). What has arrived is committed even when the stream is cut.

        With the last byte the hash and the rows are checked. Raises the errors that WriteDataset documents.
        """
        async with self._alone(uid):
            row = await self._row(uid)
            if row.ready:
                raise FailedPrecondition("DATASET_READY", "The dataset is complete; nothing is left to write.")
            return to_message(await self._uploads.take(row, pieces))

    async def get(self, uid: str) -> dataset_pb2.Dataset:
        """A dataset. Raises NotFound DATASET_NOT_FOUND."""
        return to_message(await self._row(uid))

    async def ready(self, uid: str) -> DatasetRow:
        """A dataset that can be trained on. Raises NotFound, or FailedPrecondition DATASET_NOT_READY."""
        row = await self._row(uid)
        if not row.ready:
            raise FailedPrecondition(
                "DATASET_NOT_READY",
                f"Dataset {uid} has {row.committed_bytes} of {row.size_bytes} bytes; finish the upload.",
                metadata={"committed_bytes": str(row.committed_bytes)},
            )
        return row

    async def page(self, project: str, *, before: str, limit: int) -> list[dataset_pb2.Dataset]:
        """Datasets of a project, newest first, older than the uid `before`."""
        found = await self._store.read(
            lambda connection: datasets.page(connection, project, before=before, limit=limit)
        )
        return [to_message(row) for row in found]

    async def delete(self, uid: str, project: str, *, request_id: str = "") -> None:
        """Delete a dataset; again under the same request id changes nothing.

        Raises NotFound, FailedPrecondition DATASET_IN_USE with the job that needs it.
        """

        def work(connection: Connection) -> tuple[str, bool]:
            now = self._clock()
            if jobs.claim_request_id(
                connection, project, request_id, method="DeleteDataset", body_hash=uid, resource=uid, now=now
            ):
                return "", False
            row = datasets.load(connection, uid)
            if row is None:
                raise _not_found(uid)
            user = jobs.user_of_dataset(connection, uid, states.LIVE)
            if user is not None:
                text = f"{user.name} needs this dataset; wait for it or cancel it."
                raise FailedPrecondition(
                    "DATASET_IN_USE", text, metadata={"job": user.name}, violations=[(user.name, text)]
                )
            datasets.remove(connection, uid)
            return row.sha256, datasets.count_of_content(connection, row.sha256) == 0

        async with self._alone(uid):
            sha256, unused = await self._store.write(work)
            await asyncio.to_thread(self._uploads.part(uid).unlink, missing_ok=True)
            if unused:
                await asyncio.to_thread(self.content(sha256).unlink, missing_ok=True)

    @asynccontextmanager
    async def _alone(self, uid: str) -> AsyncIterator[None]:
        """One change of a dataset's files at a time: a cut upload may still be closing when the next one comes."""
        lock, waiting = self._locks.get(uid, (asyncio.Lock(), 0))
        self._locks[uid] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks[uid]
            self._locks[uid] = lock, waiting - 1
            if waiting == 1:
                del self._locks[uid]

    async def _row(self, uid: str) -> DatasetRow:
        row = await self._store.read(lambda connection: datasets.load(connection, uid))
        if row is None:
            raise _not_found(uid)
        return row

    def _fresh(self, project: str, owner: str, request: dataset_pb2.CreateDatasetRequest) -> DatasetRow:
        uid, now = str(uuid7()), self._clock()
        record = dataset_pb2.Dataset(
            name=str(ResourceName(project, "datasets", uid)),
            uid=uid,
            display_name=request.display_name,
            format=request.format,
            reading=_stated(request),
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
    """A row as the contract shows it."""
    message = dataset_pb2.Dataset.FromString(row.record)
    message.state = dataset_pb2.DATASET_STATE_READY if row.ready else dataset_pb2.DATASET_STATE_UPLOADING
    message.committed_bytes = row.size_bytes if row.ready else row.committed_bytes
    message.update_time.CopyFrom(timestamp(row.update_time))
    message.etag = f"{row.update_time:x}"
    return message


def _stated(request: dataset_pb2.CreateDatasetRequest) -> run_spec_pb2.DatasetReading | None:
    """How the file is read as far as the request says it. Of formats, only those that the content may not tell."""
    reading = run_spec_pb2.DatasetReading()
    reading.CopyFrom(request.reading)
    reading.file_format = reading.file_format or _UNTOLD.get(request.format, run_spec_pb2.FILE_FORMAT_UNSPECIFIED)
    return reading if reading.ByteSize() else None


_UNTOLD = {
    dataset_pb2.DATASET_FORMAT_CSV: run_spec_pb2.FILE_FORMAT_CSV,
    dataset_pb2.DATASET_FORMAT_TSV: run_spec_pb2.FILE_FORMAT_TSV,
}


def _still_there(row: DatasetRow | None) -> DatasetRow:
    if row is None:
        raise FailedPrecondition(
            "DATASET_DELETED", "This request made a dataset that was deleted; use a new request_id."
        )
    return row


def _too_large(field: str, size: int, limit: int, what: str) -> ResourceExhausted:
    text = f"{field}: {size} bytes; {what} may have {limit}."
    return ResourceExhausted("DATASET_TOO_LARGE", text, metadata={"limit": str(limit)}, violations=[(field, text)])


def _not_found(uid: str) -> NotFound:
    return NotFound("DATASET_NOT_FOUND", f"There is no dataset {uid!r}; ListDatasets shows the ones there are.")
