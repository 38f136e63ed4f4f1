# SPDX-License-Identifier: Apache-2.0
"""The upload of a dataset's file: taken in pieces, committed as it comes, checked when it is whole."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_data.contract import to_reading
from finetree_data.options import FileFormat, Reading
from finetree_runtime.errors import DomainError, InvalidArgument, OutOfRange
from sqlalchemy import Connection, delete

from finetree_trainer.datasets import validate
from finetree_trainer.disk import Upload, in_thread, move_durably, to_its_end
from finetree_trainer.joblog.log import Clock
from finetree_trainer.store import datasets, schema
from finetree_trainer.store.database import Store
from finetree_trainer.store.datasets import DatasetRow

SYNC_BYTES = 8 * 1024 * 1024
"""Bytes between two commits of an upload: what a cut sends again at most."""


class Uploads:
    """Files on their way into the store. One call at a time for each dataset: whoever calls sees to that.

    `folder` holds what is not whole yet; `content(sha256)` is where a whole file goes.
    """

    def __init__(self, store: Store, clock: Clock, folder: Path, content: Callable[[str], Path]) -> None:
        self.folder = folder
        self._store, self._clock, self._content = store, clock, content

    def part(self, uid: str) -> Path:
        """The file of an upload that is not whole."""
        return self.folder / f"{uid}.part"

    async def take(self, row: DatasetRow, pieces: AsyncIterator[tuple[int, bytes]]) -> DatasetRow:
        """Append pieces (offset, bytes); with the last byte the file is checked and the dataset ready.

        What has arrived is committed even when the stream is cut. Raises the errors that WriteDataset documents.
        """
        row.committed_bytes = await self._receive(row, pieces)
        return await self._finish(row) if row.committed_bytes == row.size_bytes else row

    async def _receive(self, row: DatasetRow, pieces: AsyncIterator[tuple[int, bytes]]) -> int:
        upload = self._open(row)
        if upload is None:
            return row.size_bytes
        try:
            async for offset, data in pieces:
                _check_place(row, upload.position, offset, len(data))
                await in_thread(upload.write, data)
                if upload.position - upload.synced >= SYNC_BYTES:
                    await self._commit(row.uid, upload)
        except BaseException:
            # What came is kept, as far as the disk takes it. The first error is the one to tell.
            with suppress(OSError, DomainError):
                await to_its_end(self._close(row.uid, upload))
            raise
        # Also the way of a client that is gone: its pieces end, and the cancellation follows.
        await to_its_end(self._close(row.uid, upload))
        return upload.synced

    def _open(self, row: DatasetRow) -> Upload | None:
        """The upload's file; None where a crash came between its last rename and the note of it."""
        part = self.part(row.uid)
        if row.committed_bytes == row.size_bytes and not part.exists() and self._content(row.sha256).exists():
            return None
        return Upload(part, row.committed_bytes)

    async def _close(self, uid: str, upload: Upload) -> None:
        try:
            await self._commit(uid, upload)
        finally:
            await asyncio.to_thread(upload.close)

    async def _commit(self, uid: str, upload: Upload) -> None:
        committed = await in_thread(upload.sync)
        now = self._clock()
        await self._store.write(lambda connection: datasets.commit_bytes(connection, uid, committed, now=now))

    async def _finish(self, row: DatasetRow) -> DatasetRow:
        part, content = self.part(row.uid), self._content(row.sha256)
        file = part if part.exists() else content
        record = dataset_pb2.Dataset.FromString(row.record)
        try:
            checked = await asyncio.to_thread(_verify, file, row.sha256, _reading_of(record))
        except InvalidArgument as error:
            await self._reject(row, forget=error.reason != "HASH_MISMATCH")
            raise
        if file is part:
            await asyncio.to_thread(move_durably, part, content)
        record.row_schema, record.format, record.packing = checked.schema, checked.format, checked.packing
        record.profile.CopyFrom(checked.profile)
        if checked.format == dataset_pb2.DATASET_FORMAT_TEXT:
            record.reading.file_format = run_spec_pb2.FILE_FORMAT_TEXT  # which the content alone does not tell
        row.record, row.ready, row.update_time = record.SerializeToString(), True, self._clock()
        await self._store.write(
            lambda connection: datasets.make_ready(connection, row.uid, row.record, now=row.update_time)
        )
        return row

    async def _reject(self, row: DatasetRow, *, forget: bool) -> None:
        """Take back what cannot be used: a file with a wrong hash is sent again, one with wrong rows never was."""
        now = self._clock()

        def work(connection: Connection) -> None:
            if forget:
                datasets.remove(connection, row.uid)
                ids = schema.request_ids.c
                connection.execute(delete(schema.request_ids).where(ids.resource == row.uid))
            else:
                datasets.commit_bytes(connection, row.uid, 0, now=now)

        await self._store.write(work)
        await asyncio.to_thread(self.part(row.uid).unlink, missing_ok=True)


def _reading_of(record: dataset_pb2.Dataset) -> Reading:
    """How the file is read; that it is called plain text counts less than lines of JSON or a table in it."""
    named = FileFormat.TEXT if record.format == dataset_pb2.DATASET_FORMAT_TEXT else None
    return replace(to_reading(record.reading, name=record.display_name[:100]), named=named)


def _verify(file: Path, sha256: str, reading: Reading) -> validate.Checked:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        text = "does not match the uploaded bytes; upload them again from offset 0"
        raise InvalidArgument(
            "HASH_MISMATCH", f"sha256 {text}.", metadata={"sha256": found}, violations=[("sha256", text)]
        )
    return validate.check(file, reading)


def _check_place(row: DatasetRow, position: int, offset: int, length: int) -> None:
    if offset != position:
        raise OutOfRange(
            "OFFSET_MISMATCH",
            f"offset: the next byte is {position}, not {offset}; go on from committed_bytes.",
            metadata={"committed_bytes": str(position)},
        )
    if position + length > row.size_bytes:
        text = f"goes beyond the {row.size_bytes} bytes that CreateDataset stated"
        raise InvalidArgument("SIZE_MISMATCH", f"data: {text}.", violations=[("data", text, "SIZE_MISMATCH")])
