# SPDX-License-Identifier: Apache-2.0
"""Datasets of the fake trainer, in memory: content-addressed, committed as they arrive, checked at the end."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Iterator

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import check_pb2, run_spec_pb2, training_data_pb2

from finetree._shared import rpcs
from finetree.errors import (
    AlreadyExists,
    FailedPrecondition,
    FinetreeError,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
    Violation,
)
from finetree.testing.handlers import Handlers
from finetree.testing.values import page


class FakeDatasets:
    """Datasets by name.

    Attributes:
        preview: rows that every dataset shows.
        findings: what is found in the rows of the next upload; a job that trains is refused for an error that it does
            not accept.
    """

    def __init__(self, handlers: Handlers) -> None:
        self.preview: list[dataset_pb2.PreviewRow] = []
        self.findings: list[training_data_pb2.DataFinding] = []
        self._lock = threading.RLock()
        self._datasets: dict[str, dataset_pb2.Dataset] = {}
        self._bytes: dict[str, bytearray] = {}
        self._requests: dict[str, bytes] = {}
        self._cut_after: int | None = None
        handlers.unary(rpcs.CREATE_DATASET, self.create)
        handlers.upload(rpcs.WRITE_DATASET, self.write)
        handlers.unary(
            rpcs.GET_DATASET, lambda request: dataset_pb2.GetDatasetResponse(dataset=self.find(request.name))
        )
        handlers.unary(rpcs.LIST_DATASETS, self.list)
        handlers.unary(rpcs.DELETE_DATASET, self.delete)
        handlers.unary(rpcs.PREVIEW_DATASET, self.show_preview)

    def cut_upload_after(self, count: int) -> None:
        """Break the next upload once `count` of its bytes are committed."""
        self._cut_after = count

    def content(self, name: str) -> bytes:
        """Bytes of a dataset."""
        with self._lock:
            return bytes(self._bytes[name])

    def find(self, name: str) -> dataset_pb2.Dataset:
        """Find a dataset.

        Raises:
            NotFound: DATASET_NOT_FOUND.
        """
        with self._lock:
            if name not in self._datasets:
                raise NotFound(f"no dataset {name!r}", reason="DATASET_NOT_FOUND")
            return self._datasets[name]

    def require_accepted(self, spec: run_spec_pb2.RunSpec) -> None:
        """Refuse a run for an error in its rows that its reading does not accept, as the trainer does.

        Raises:
            InvalidArgument: the finding's code.
        """
        for path, source in (("dataset", spec.dataset), ("evaluation.dataset", spec.evaluation.dataset)):
            with self._lock:
                dataset = self._datasets.get(source.name)
            for found in dataset.findings if dataset is not None else ():
                columns = {c.name for c in found.columns if c.severity == check_pb2.SEVERITY_ERROR}
                accepted = found.code in source.reading.accepted_findings
                ignored = bool(columns) and columns <= set(source.reading.ignored_columns)
                if found.severity == check_pb2.SEVERITY_ERROR and not (accepted or ignored):
                    place = f"job.train.spec.{path}.reading"
                    raise InvalidArgument(
                        f"{place}: {found.message}", reason=found.code, violations=(Violation(place, found.message),)
                    )

    def create(self, request: dataset_pb2.CreateDatasetRequest) -> dataset_pb2.CreateDatasetResponse:
        """Create a dataset; the same content gives the existing one."""
        with self._lock:
            body = request.sha256.encode()
            if self._requests.setdefault(request.request_id, body) != body:
                raise AlreadyExists("the request_id was used for another dataset", reason="REQUEST_ID_REUSED")
            for existing in self._datasets.values():
                if existing.sha256 == request.sha256 and existing.name.startswith(f"{request.parent}/"):
                    return dataset_pb2.CreateDatasetResponse(dataset=existing)
            uid = str(uuid.uuid4())
            name = f"{request.parent or 'projects/default'}/datasets/{uid}"
            self._bytes[name] = bytearray()
            self._datasets[name] = dataset_pb2.Dataset(
                name=name,
                uid=uid,
                display_name=request.display_name,
                state=dataset_pb2.DATASET_STATE_UPLOADING,
                size_bytes=request.size_bytes,
                sha256=request.sha256,
                labels=request.labels,
                reading=request.reading if request.HasField("reading") else None,
            )
            return dataset_pb2.CreateDatasetResponse(dataset=self._datasets[name])

    def write(self, requests: Iterator[dataset_pb2.WriteDatasetRequest]) -> dataset_pb2.WriteDatasetResponse:
        """Commit every message as it arrives."""
        name = ""
        for request in requests:
            name = name or request.name
            with self._lock:
                self._append(self.find(name), request)
        with self._lock:
            dataset = self.find(name)
            if dataset.committed_bytes == dataset.size_bytes:
                self._check(dataset)
            return dataset_pb2.WriteDatasetResponse(dataset=dataset)

    def list(self, request: dataset_pb2.ListDatasetsRequest) -> dataset_pb2.ListDatasetsResponse:
        """List datasets, newest first, in pages."""
        with self._lock:
            mine = [each for each in self._datasets.values() if each.name.startswith(f"{request.parent}/")][::-1]
        datasets, token = page(mine, request)
        return dataset_pb2.ListDatasetsResponse(datasets=datasets, next_page_token=token)

    def delete(self, request: dataset_pb2.DeleteDatasetRequest) -> dataset_pb2.DeleteDatasetResponse:
        """Delete a dataset at once."""
        with self._lock:
            del self._datasets[self.find(request.name).name]
        return dataset_pb2.DeleteDatasetResponse()

    def show_preview(self, request: dataset_pb2.PreviewDatasetRequest) -> dataset_pb2.PreviewDatasetResponse:
        """List the rows of `preview` that the request selects, in pages."""
        if request.dataset:
            self.find(request.dataset)
        if not self.preview:
            raise FailedPrecondition(
                "no job has read this dataset yet: `finetree data check` or prepare(), with the model to train, does",
                reason="NO_PREVIEW",
            )
        finding = dataset_pb2.PreviewFilter.Name(request.filter).removeprefix("PREVIEW_FILTER_").lower()
        rows = [row for row in self.preview if request.split in (training_data_pb2.SPLIT_UNSPECIFIED, row.split)]
        rows = [row for row in rows if not request.filter or getattr(row, finding)]
        shown, token = page(rows, request, size=20)
        return dataset_pb2.PreviewDatasetResponse(rows=shown, next_page_token=token, job=request.job)

    def _append(self, dataset: dataset_pb2.Dataset, request: dataset_pb2.WriteDatasetRequest) -> None:
        if dataset.state == dataset_pb2.DATASET_STATE_READY:
            raise FailedPrecondition("nothing is left to write", reason="DATASET_READY")
        if request.offset != dataset.committed_bytes:
            raise OutOfRange(
                f"continue from byte {dataset.committed_bytes}",
                reason="OFFSET_MISMATCH",
                metadata={"committed_bytes": str(dataset.committed_bytes)},
            )
        self._bytes[dataset.name] += request.data
        dataset.committed_bytes = len(self._bytes[dataset.name])
        if self._cut_after is not None and dataset.committed_bytes >= self._cut_after:
            self._cut_after = None
            raise Unavailable("the upload was cut", reason="SERVER_STOPPING")

    def _check(self, dataset: dataset_pb2.Dataset) -> None:
        content = bytes(self._bytes[dataset.name])
        try:
            if hashlib.sha256(content).hexdigest() != dataset.sha256:
                raise InvalidArgument("the bytes do not have the announced hash", reason="HASH_MISMATCH")
            rows = [_row(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
        except FinetreeError:
            del self._datasets[dataset.name]
            raise
        dataset.profile.CopyFrom(training_data_pb2.DatasetProfile(examples=len(rows)))
        dataset.row_format = (
            training_data_pb2.ROW_FORMAT_CHAT if "messages" in rows[0] else training_data_pb2.ROW_FORMAT_TEXT
        )
        dataset.findings.extend(self.findings)
        dataset.state = dataset_pb2.DATASET_STATE_READY


def _row(number: int, line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line)
    except ValueError as error:
        text = f"row {number} is not JSON"
        raise InvalidArgument(text, reason="MALFORMED_ROW", violations=(Violation(f"rows[{number}]", text),)) from error
    if not isinstance(row, dict):
        raise InvalidArgument(f"row {number} is not an object", reason="MALFORMED_ROW")
    return row
