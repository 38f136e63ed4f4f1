# SPDX-License-Identifier: Apache-2.0
"""Previews: rows of a dataset as training sees them, read from a PREPARE job's artifact.

Only workers have tokenizers, so the service cannot make a preview itself.
"""

import asyncio
from functools import partial
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, dataset_pb2, job_pb2
from finetree_data.confinement.own_files import open_own
from finetree_runtime.errors import FailedPrecondition
from google.protobuf import json_format
from sqlalchemy import Connection

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.store import artifacts, datasets

ARTIFACT, FILE = "preview", "rows.jsonl"
"""The artifact of a PREPARE job that holds the rows, and its file: a PreviewRow as proto JSON on each line."""
PAGE_BYTES = 1024 * 1024
"""Bytes of a page's rows; a page ends before the row that would exceed them."""
DEFAULT_ROWS = 20
MAX_ROWS = 100

_FILTERS = {
    dataset_pb2.PREVIEW_FILTER_TRUNCATED: "truncated",
    dataset_pb2.PREVIEW_FILTER_DROPPED: "dropped",
    dataset_pb2.PREVIEW_FILTER_NO_TARGET: "no_target",
}


class Previews:
    """Finds and reads previews."""

    def __init__(self, log: EventLog, layout: Layout, copies: Copies) -> None:
        self._log, self._layout, self._copies = log, layout, copies

    async def newest(self, dataset: str) -> str:
        """Find the newest job that has a preview of a dataset (a uid). Raises FailedPrecondition NO_PREVIEW."""
        found = await self._log.store.read(
            lambda connection: artifacts.newest_job_with(
                connection, ARTIFACT, dataset=dataset, task=job_pb2.TASK_KIND_PREPARE
            )
        )
        if found is None:
            raise _no_preview(
                "no job has read this dataset yet: `finetree data check` or prepare(), with the model to train, does"
            )
        return found

    async def page(
        self, job: str, request: dataset_pb2.PreviewDatasetRequest, *, offset: int, limit: int
    ) -> tuple[list[dataset_pb2.PreviewRow], int]:
        """Read at most `limit` rows from an offset in the job's file; also return the next page's offset (0: none).

        Raises NotFound JOB_NOT_FOUND, FailedPrecondition NO_PREVIEW.
        """
        dataset = (await self._log.row(job)).dataset_uid

        def load(connection: Connection) -> bytes | None:
            # Rows of a deleted dataset are not shown, even to a caller that knows the job.
            gone = dataset and datasets.load(connection, dataset) is None
            return None if gone else artifacts.load(connection, job, ARTIFACT)

        record = await self._log.store.read(load)
        if record is None:
            raise _no_preview(
                "this job has no preview, or its dataset was deleted; name a job of `finetree data check` or prepare()"
            )
        folder = self._layout.artifacts(job, artifact_pb2.Artifact.FromString(record).attempt) / ARTIFACT
        await self._copies.ensure(folder)
        file = folder / FILE
        try:
            return await asyncio.to_thread(partial(_read, file, request, offset=offset, limit=limit))
        except FileNotFoundError:
            raise _no_preview("this job's preview was removed from the disk; check the dataset again") from None


def _read(
    file: Path, request: dataset_pb2.PreviewDatasetRequest, *, offset: int, limit: int
) -> tuple[list[dataset_pb2.PreviewRow], int]:
    found: list[dataset_pb2.PreviewRow] = []
    room = PAGE_BYTES
    with open_own(file) as stream:
        stream.seek(offset)
        while line := stream.readline():
            row = json_format.Parse(line, dataset_pb2.PreviewRow(), ignore_unknown_fields=True)
            if not _matches(row, request):
                continue
            if len(found) == limit or (found and room < row.ByteSize()):
                return found, stream.tell() - len(line)
            found.append(row)
            room -= row.ByteSize()
    return found, 0


def _matches(row: dataset_pb2.PreviewRow, request: dataset_pb2.PreviewDatasetRequest) -> bool:
    finding = _FILTERS.get(request.filter)
    return (not request.split or row.split == request.split) and (finding is None or bool(getattr(row, finding)))


def _no_preview(text: str) -> FailedPrecondition:
    return FailedPrecondition("NO_PREVIEW", f"There is no preview: {text}.")
