# SPDX-License-Identifier: Apache-2.0
"""Uploads of dataset files: received in pieces, committed as they come, validated when they are complete."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_data.contract import finding_message, to_reading
from finetree_data.durable_files import sync_folder
from finetree_data.fail_points import fail_point
from finetree_data.options import Reading
from finetree_runtime.errors import DomainError, InvalidArgument, OutOfRange
from finetree_runtime.server.limits.table import Caller
from sqlalchemy import Connection

from finetree_trainer.clock import Clock
from finetree_trainer.datasets import validate
from finetree_trainer.datasets.contents import Contents
from finetree_trainer.disk import full_disk_refused, in_thread, uninterrupted
from finetree_trainer.layout import Layout
from finetree_trainer.limits.quotas import Quotas
from finetree_trainer.store import datasets, request_ids
from finetree_trainer.store.database import Store
from finetree_trainer.store.datasets import DatasetRow

SYNC_BYTES = 8 * 1024 * 1024
"""Bytes between two commits of an upload: the most that is sent again after a cut."""


class UploadFile:
    """A file that grows by pieces and is durable up to `synced` bytes. All methods block: call them on a thread."""

    def __init__(self, file: Path, committed: int) -> None:
        """Open the file at the committed size; bytes of an unfinished write beyond it are cut off."""
        self._failed = False
        with full_disk_refused():
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not committed:
                sync_folder(file.parent)  # or a power cut takes the name, and with it what was committed
            self.position = self.synced = min(committed, os.fstat(self._descriptor).st_size)
            self.counted = self.position
            """Bytes that count for the day already, or for an earlier one."""
            if os.fstat(self._descriptor).st_size > self.position:
                os.ftruncate(self._descriptor, self.position)

    def write(self, data: bytes) -> None:
        """Append. Raises ResourceExhausted DISK_FULL; `position` then is behind the bytes that were written."""
        view = memoryview(data)
        with full_disk_refused():
            while view:
                count = os.pwrite(self._descriptor, view, self.position)
                self.position += count
                view = view[count:]

    def sync(self) -> int:
        """Flush everything to disk, and return the number of bytes that are there.

        After a flush that failed, none of this file's counts any more: the system reports an error once and drops what
        it could not write, so that the next flush succeeds and means nothing. Raises ResourceExhausted DISK_FULL,
        OSError.
        """
        fail_point("upload.before_sync")
        if not self._failed:
            self._failed = True
            with full_disk_refused():
                os.fsync(self._descriptor)
            self._failed, self.synced = False, self.position
        return self.synced

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Uploads:
    """Receives the files of datasets. The caller makes sure that there is one call at a time for each dataset."""

    def __init__(self, store: Store, clock: Clock, layout: Layout, quotas: Quotas, contents: Contents) -> None:
        self._store, self._clock, self._layout, self._quotas = store, clock, layout, quotas
        self._contents = contents

    async def receive(self, row: DatasetRow, pieces: AsyncIterator[tuple[int, bytes]], caller: Caller) -> DatasetRow:
        """Append pieces (offset, bytes); with the last byte the file is validated and the dataset is ready.

        What has arrived is committed even when the stream is cut. Raises the errors that WriteDataset documents.
        """
        row.committed_bytes = await self._append(row, pieces, caller)
        return await self._finish(row) if row.committed_bytes == row.size_bytes else row

    async def _append(self, row: DatasetRow, pieces: AsyncIterator[tuple[int, bytes]], caller: Caller) -> int:
        now = self._clock()
        await self._store.read(lambda connection: self._quotas.require_upload(connection, caller, now))
        upload = self._open(row)
        if upload is None:
            return row.size_bytes
        try:
            async for offset, data in pieces:
                _require_offset(row, upload.position, offset=offset, length=len(data))
                await in_thread(upload.write, data)
                if upload.position - upload.synced >= SYNC_BYTES:
                    await self._commit(row.uid, upload, caller, within_day=True)
        except BaseException:
            # What came is kept, as far as the disk takes it. The first error is the one to report.
            with suppress(OSError, DomainError):
                await uninterrupted(self._close(row.uid, upload, caller))
            raise
        # Also reached for a client that is gone: its pieces end, and the cancellation follows.
        await uninterrupted(self._close(row.uid, upload, caller))
        return upload.synced

    def _open(self, row: DatasetRow) -> UploadFile | None:
        """Open the upload's file; None when it was moved to its place and a crash came before that was recorded."""
        part, content = self._layout.upload_file(row.uid), self._layout.dataset_file(row.sha256)
        if row.committed_bytes == row.size_bytes and not part.exists() and content.exists():
            return None
        return UploadFile(part, row.committed_bytes)

    async def _close(self, uid: str, upload: UploadFile, caller: Caller) -> None:
        try:
            await self._commit(uid, upload, caller)
        finally:
            await asyncio.to_thread(upload.close)

    async def _commit(self, uid: str, upload: UploadFile, caller: Caller, *, within_day: bool = False) -> None:
        """Commit what has arrived, and count it; with `within_day`, refuse more where the day's bytes are used up."""
        before = upload.counted
        committed = await in_thread(upload.sync)
        fail_point("upload.after_sync")
        now = self._clock()

        def work(connection: Connection) -> None:
            datasets.commit_bytes(connection, uid, committed, now=now)
            self._quotas.note_uploaded(connection, caller, committed - before, now)

        await self._store.write(work)
        upload.counted = committed
        if within_day:
            await self._store.read(lambda connection: self._quotas.require_upload(connection, caller, now))

    async def _finish(self, row: DatasetRow) -> DatasetRow:
        part, content = self._layout.upload_file(row.uid), self._layout.dataset_file(row.sha256)
        file = part if part.exists() else content
        record = dataset_pb2.Dataset.FromString(row.record)
        reading = to_reading(record.reading, name=record.display_name[:100])
        try:
            valid = await asyncio.to_thread(_verify, file, row.sha256, reading)
        except InvalidArgument as error:
            await self._reject(row, remove=error.reason != "HASH_MISMATCH")
            raise
        fail_point("upload.before_move")
        if file is part:
            await self._contents.place(part, row.sha256)
        fail_point("upload.before_ready")
        record.file_format, record.row_format = valid.file_format, valid.row_format
        record.compression = valid.compression
        record.profile.CopyFrom(valid.profile)
        record.findings.extend(map(finding_message, valid.findings))
        if valid.file_format not in _SHOWN_BY_CONTENT:
            # Found by the name: whoever reads the file later has its content alone.
            record.reading.file_format = valid.file_format
        row.record, row.ready, row.update_time = record.SerializeToString(), True, self._clock()
        await self._store.write(
            lambda connection: datasets.make_ready(connection, row.uid, row.record, now=row.update_time)
        )
        self._contents.on_ready()
        return row

    async def _reject(self, row: DatasetRow, *, remove: bool) -> None:
        """Discard a file that cannot be used, and with `remove` the dataset: a file with a wrong hash is sent again."""
        now = self._clock()

        def work(connection: Connection) -> None:
            if remove:
                datasets.remove(connection, row.uid)
                request_ids.forget(connection, row.uid)
            else:
                datasets.commit_bytes(connection, row.uid, 0, now=now)

        await self._store.write(work)
        await asyncio.to_thread(self._layout.upload_file(row.uid).unlink, missing_ok=True)


_SHOWN_BY_CONTENT = (
    training_data_pb2.FILE_FORMAT_JSONL,
    training_data_pb2.FILE_FORMAT_JSON,
    training_data_pb2.FILE_FORMAT_PARQUET,
)


def _verify(file: Path, sha256: str, reading: Reading) -> validate.ValidatedFile:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        text = "does not match the uploaded bytes; upload them again from offset 0"
        raise InvalidArgument(
            "HASH_MISMATCH",
            f"sha256 {text}.",
            metadata={"sha256": found},
            violations=[("sha256", text, "HASH_MISMATCH")],
        )
    return validate.validate_file(file, reading)


def _require_offset(row: DatasetRow, position: int, *, offset: int, length: int) -> None:
    if offset != position:
        raise OutOfRange(
            "OFFSET_MISMATCH",
            f"offset: the next byte is {position}, not {offset}; go on from committed_bytes.",
            metadata={"committed_bytes": str(position)},
        )
    if position + length > row.size_bytes:
        text = f"goes beyond the {row.size_bytes} bytes that CreateDataset stated"
        raise InvalidArgument("SIZE_MISMATCH", f"data: {text}.", violations=[("data", text, "SIZE_MISMATCH")])
