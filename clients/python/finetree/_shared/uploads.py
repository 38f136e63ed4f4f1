# SPDX-License-Identifier: Apache-2.0
"""Uploads without any network: the bytes, which of them come next, and what an error means for them."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import training_data_pb2

from finetree._shared.downloads import Progress
from finetree._shared.trainer_requests import project_name
from finetree.errors import FinetreeError, InvalidArgument, Violation

Source = str | Path | bytes | BinaryIO | Iterable[Mapping[str, Any]]
"""A file's path, its bytes, a binary file that is open and can be sought, or rows."""
BinaryFile = BinaryIO | tempfile.SpooledTemporaryFile[bytes]
CHUNK_BYTES = 64 * 1024
"""Bytes of a message; more is not faster on loopback, and well below the server's limit."""
SEGMENT_BYTES = 8 * 1024 * 1024
"""Bytes of one client stream, so that each has a deadline and progress is durable in between."""
IN_MEMORY_BYTES = 8 * 1024 * 1024
"""Rows up to this size are kept in memory, larger ones in a temporary file."""
READY = dataset_pb2.DATASET_STATE_READY


class Content:
    """The bytes of an upload, with their size and SHA-256. A context, which releases the file."""

    def __init__(self, source: Source) -> None:
        self._file = _opened(source)
        self._file.seek(0)
        self.sha256 = hashlib.file_digest(cast("Any", self._file), "sha256").hexdigest()
        self.size = self._file.seek(0, io.SEEK_END)
        if not self.size:
            self._file.close()
            named = repr(str(source)) if isinstance(source, str | Path) else "it"
            text = f"{named} is empty; a dataset needs at least one row"
            raise InvalidArgument(f"source: {text}", reason="EMPTY_DATASET", violations=(Violation("source", text),))

    def read(self, offset: int, count: int) -> bytes:
        """Read at most `count` bytes from `offset`."""
        self._file.seek(offset)
        return self._file.read(count)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(source: Source) -> BinaryFile:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, io.TextIOBase):
        text = 'it is a file opened as text; open it with "rb", or give its path'
        raise InvalidArgument(f"source: {text}", reason="UNREADABLE_SOURCE", violations=(Violation("source", text),))
    if hasattr(source, "read"):
        return cast("BinaryIO", source)
    if isinstance(source, str | Path):
        try:
            return Path(source).open("rb")
        except OSError as error:
            text = f"cannot read {str(source)!r}: {error.strerror}"
            raise InvalidArgument(
                f"source: {text}", reason="UNREADABLE_SOURCE", violations=(Violation("source", text),)
            ) from error
    return _spooled(source)


def _spooled(rows: Iterable[Mapping[str, Any]]) -> BinaryFile:
    file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - Content closes it
    for number, row in enumerate(rows, 1):
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            file.write(line.encode("utf-8") + b"\n")
        except (TypeError, ValueError) as error:
            file.close()
            text = f"row {number} is not JSON: {error}"
            raise InvalidArgument(
                f"source: {text}", reason="MALFORMED_ROW", violations=(Violation(f"source[{number - 1}]", text),)
            ) from error
    file.seek(0)
    return file


def create_dataset(
    project: str,
    content: Content,
    source: Source,
    *,
    display_name: str,
    labels: Mapping[str, str] | None,
    reading: training_data_pb2.DatasetReading | None,
    request_id: str,
) -> dataset_pb2.CreateDatasetRequest:
    """Build the request of CreateDataset; the source's name decides its format where the caller does not."""
    request = dataset_pb2.CreateDatasetRequest(
        parent=project_name(project),
        display_name=display_name or (Path(source).name if isinstance(source, str | Path) else ""),
        size_bytes=content.size,
        sha256=content.sha256,
        request_id=request_id,
        labels=labels or {},
        reading=reading,
    )
    file_format = _file_format(source)
    if file_format and not request.reading.file_format:
        request.reading.file_format = file_format
    return request


def _file_format(source: Source) -> training_data_pb2.FileFormat.ValueType:
    """File format that a name implies where the content may not show it; the service finds the others itself."""
    if isinstance(source, str | Path):
        suffixes = [suffix.lower() for suffix in Path(source).suffixes]
        found = (_BY_SUFFIX[suffix] for suffix in reversed(suffixes) if suffix in _BY_SUFFIX)
        return next(found, training_data_pb2.FILE_FORMAT_UNSPECIFIED)
    if isinstance(source, bytes) or hasattr(source, "read"):
        return training_data_pb2.FILE_FORMAT_UNSPECIFIED
    return training_data_pb2.FILE_FORMAT_JSONL


_BY_SUFFIX = {
    ".csv": training_data_pb2.FILE_FORMAT_CSV,
    ".tsv": training_data_pb2.FILE_FORMAT_TSV,
    ".txt": training_data_pb2.FILE_FORMAT_TEXT,
    ".md": training_data_pb2.FILE_FORMAT_TEXT,
}


class Upload:
    """Progress of an upload.

    Attributes:
        content: the bytes.
        dataset: the dataset as the service last reported it.
        stale: the service may have more by now, since a stream was cut.
    """

    def __init__(self, content: Content, dataset: dataset_pb2.Dataset, on_progress: Progress | None) -> None:
        self.content, self.dataset = content, dataset
        self.stale = False
        self._on_progress = on_progress
        self._tell()

    @property
    def done(self) -> bool:
        """Whether the service has every byte and has checked them."""
        if self.dataset.state not in dataset_pb2.DatasetState.values():
            # A newer service may have a further step behind the last byte; there is nothing left to send.
            return self.dataset.committed_bytes >= self.content.size
        return self.dataset.state == READY

    @property
    def offset(self) -> int:
        """Position of the next byte to send."""
        return min(self.dataset.committed_bytes, self.content.size)

    def segment(self) -> Iterator[dataset_pb2.WriteDatasetRequest]:
        """Yield the messages of the next client stream: a single empty one when only the final check is missing."""
        offset, end = self.offset, min(self.offset + SEGMENT_BYTES, self.content.size)
        name = self.dataset.name
        while True:
            data = self.content.read(offset, min(CHUNK_BYTES, end - offset))
            yield dataset_pb2.WriteDatasetRequest(name=name, offset=offset, data=data)
            offset, name = offset + len(data), ""
            if offset >= end or not data:
                return

    def update(self, dataset: dataset_pb2.Dataset) -> bool:
        """Take over what the service reports; True when it got further."""
        further = dataset.committed_bytes > self.dataset.committed_bytes or dataset.state != self.dataset.state
        self.dataset = dataset
        self._tell()
        return further

    @staticmethod
    def position_lost(error: FinetreeError) -> bool:
        """Whether the service is at another position than expected, so that asking it helps."""
        return error.reason in {"OFFSET_MISMATCH", "DATASET_READY"}

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.content.size if self.done else self.offset, self.content.size)
