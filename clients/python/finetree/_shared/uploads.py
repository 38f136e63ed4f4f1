# SPDX-License-Identifier: Apache-2.0
"""An upload without any input or output: which bytes come next, and what an error means for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import training_data_pb2

from finetree._shared.files import PIECE, Content, Progress, Source
from finetree.errors import FinetreeError

# One client stream carries this much, so that each has a deadline and progress is durable in between.
SEGMENT_BYTES = 8 * 1024 * 1024
READY = dataset_pb2.DATASET_STATE_READY


def create_request(
    content: Content,
    parent: str,
    display_name: str,
    labels: Mapping[str, str] | None,
    request_id: str,
    *,
    format_: training_data_pb2.FileFormat.ValueType,
    reading: training_data_pb2.DatasetReading | None,
) -> dataset_pb2.CreateDatasetRequest:
    """Request of CreateDataset."""
    return dataset_pb2.CreateDatasetRequest(
        parent=parent,
        display_name=display_name,
        size_bytes=content.size,
        sha256=content.sha256,
        format=format_,
        request_id=request_id,
        labels=labels or {},
        reading=reading,
    )


def file_format(source: Source) -> training_data_pb2.FileFormat.ValueType:
    """What a file's name says of it, where its content may not; the service finds the rest in the content."""
    if isinstance(source, str | Path):
        suffixes = [suffix.lower() for suffix in Path(source).suffixes]
        found = (_BY_SUFFIX[suffix] for suffix in reversed(suffixes) if suffix in _BY_SUFFIX)
        return next(found, training_data_pb2.FILE_FORMAT_UNSPECIFIED)
    rows = not isinstance(source, bytes)
    return training_data_pb2.FILE_FORMAT_JSONL if rows else training_data_pb2.FILE_FORMAT_UNSPECIFIED


_BY_SUFFIX = {
    ".csv": training_data_pb2.FILE_FORMAT_CSV,
    ".tsv": training_data_pb2.FILE_FORMAT_TSV,
    ".txt": training_data_pb2.FILE_FORMAT_TEXT,
    ".md": training_data_pb2.FILE_FORMAT_TEXT,
}


def default_name(source: Source, display_name: str) -> str:
    """Name for people: the caller's, else the file's."""
    return display_name or (Path(source).name if isinstance(source, str | Path) else "")


class Upload:
    """Progress of an upload. `dataset` is what the service last said; `stale` when it may have more by now."""

    def __init__(self, content: Content, dataset: dataset_pb2.Dataset, on_progress: Progress | None) -> None:
        self.content, self.dataset = content, dataset
        self.stale = False
        self._on_progress = on_progress
        self._tell()

    @property
    def done(self) -> bool:
        """Whether the service has every byte and has checked them."""
        return self.dataset.state == READY

    @property
    def offset(self) -> int:
        """Where to go on."""
        return min(self.dataset.committed_bytes, self.content.size)

    def segment(self) -> Iterator[dataset_pb2.WriteDatasetRequest]:
        """Messages of the next client stream; a single empty one when only the check at the end is missing."""
        offset, end = self.offset, min(self.offset + SEGMENT_BYTES, self.content.size)
        name = self.dataset.name
        while True:
            data = self.content.read(offset, min(PIECE, end - offset))
            yield dataset_pb2.WriteDatasetRequest(name=name, offset=offset, data=data)
            offset, name = offset + len(data), ""
            if offset >= end or not data:
                return

    def now(self, dataset: dataset_pb2.Dataset) -> bool:
        """Take in what the service says; True when it got further."""
        further = dataset.committed_bytes > self.dataset.committed_bytes or dataset.state != self.dataset.state
        self.dataset = dataset
        self._tell()
        return further

    @staticmethod
    def position_lost(error: FinetreeError) -> bool:
        """Whether the service is elsewhere than we thought, so that asking it is what helps."""
        return error.reason in {"OFFSET_MISMATCH", "DATASET_READY"}

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.content.size if self.done else self.offset, self.content.size)
