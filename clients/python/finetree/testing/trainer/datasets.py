# SPDX-License-Identifier: Apache-2.0
"""Datasets of the fake trainer, in memory: content-addressed, committed as they arrive, checked at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import check_pb2, training_data_pb2

from finetree._shared import rpcs
from finetree.errors import (
    FailedPrecondition,
    FinetreeError,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
    Violation,
)
from finetree.testing.catalog import require_inside
from finetree.testing.clock import Clock, Ids
from finetree.testing.handlers import Handlers
from finetree.testing.requests import Answers, body_hash, full_name, invalid, page, project_of
from finetree.testing.trainer.rows import check_rows


class FakeDatasets:
    """Datasets by name.

    Attributes:
        files: files under the fake machine's data roots, by path.
        findings: what is found in the rows of the next uploads; a job that trains is refused for an error that it does
            not accept.
        preview: rows that every dataset and job shows, for tests that want no PREPARE job first.
        max_upload_bytes: most bytes of a dataset.
        max_project_bytes: most bytes of a project's datasets.
    """

    def __init__(self, handlers: Handlers, clock: Clock, *, ids: Ids, answers: Answers) -> None:
        self.files: dict[str, bytes] = {}
        self.findings: list[training_data_pb2.DataFinding] = []
        self.preview: list[dataset_pb2.PreviewRow] = []
        self.max_upload_bytes = self.max_project_bytes = 1 << 40
        self._clock, self._ids, self._answers = clock, ids, answers
        self._lock = clock.changed
        self._datasets: dict[str, dataset_pb2.Dataset] = {}
        self._deleted: set[str] = set()
        self._bytes: dict[str, bytearray] = {}
        self._cut_after: int | None = None
        handlers.unary(rpcs.CREATE_DATASET, self.create)
        handlers.upload(rpcs.WRITE_DATASET, self.write)
        handlers.unary(
            rpcs.GET_DATASET, lambda request: dataset_pb2.GetDatasetResponse(dataset=self.find(request.name))
        )
        handlers.unary(rpcs.LIST_DATASETS, self.list)

    def add(self, rows: Iterable[Mapping[str, Any]] | bytes, *, display_name: str = "") -> dataset_pb2.Dataset:
        """Put a dataset there, as an upload of these rows would.

        Raises:
            InvalidArgument: as an upload.
        """
        written = rows if isinstance(rows, bytes) else "".join(f"{json.dumps(dict(row))}\n" for row in rows).encode()
        request = dataset_pb2.CreateDatasetRequest(
            size_bytes=len(written), sha256=hashlib.sha256(written).hexdigest(), display_name=display_name
        )
        with self._lock:
            made = self.create(request).dataset
            if made.state == dataset_pb2.DATASET_STATE_READY:
                return made
            return self.write(iter([dataset_pb2.WriteDatasetRequest(name=made.name, data=written)])).dataset

    def cut_upload_after(self, count: int) -> None:
        """Break the next upload once `count` of its bytes are committed."""
        self._cut_after = count

    def content(self, name: str) -> bytes:
        """Bytes of a dataset."""
        with self._lock:
            return bytes(self._bytes[name])

    def names(self) -> set[str]:
        """Full names of the datasets that are there."""
        return set(self._datasets)

    def find(self, name: str, field: str = "name") -> dataset_pb2.Dataset:
        """Find a dataset.

        Raises:
            InvalidArgument: INVALID_NAME.
            NotFound: DATASET_NOT_FOUND.
        """
        with self._lock:
            found = self._datasets.get(full_name(name, "datasets", field))
            if found is None:
                text = f"{field}: there is no dataset {name!r}; list the datasets to see those that exist."
                raise NotFound(text, reason="DATASET_NOT_FOUND")
            return found

    def located(
        self, source: training_data_pb2.DatasetSource, field: str, *, trains: bool
    ) -> training_data_pb2.DatasetProfile | None:
        """Profile of the dataset of a job, None where it names none; its reading becomes the dataset's own.

        Raises:
            InvalidArgument: the rows of a path, or a finding that is not accepted.
            NotFound: DATASET_NOT_FOUND.
            FailedPrecondition: DATASET_NOT_READY.
        """
        match source.WhichOneof("source"):
            case "profile":
                raise invalid(f"{field}.profile", "a profile has no rows; name a dataset or a path")
            case "path":
                path = require_inside(source.path, self.files, f"{field}.path", "DATASET_NOT_FOUND")
                return check_rows(self.files[path], source.reading, name=path, where=f"{field}.").profile
            case "name":
                return self._uploaded(source, field, trains=trains)
        return None

    def _uploaded(
        self, source: training_data_pb2.DatasetSource, field: str, *, trains: bool
    ) -> training_data_pb2.DatasetProfile:
        dataset = self.find(source.name, f"{field}.name")
        if dataset.state != dataset_pb2.DATASET_STATE_READY:
            text = f"{field}.name: the upload of {source.name} is not complete; finish it first."
            raise FailedPrecondition(text, reason="DATASET_NOT_READY")
        if trains and source.reading.ByteSize():  # a job that prepares reports what its script says
            check_rows(self.content(dataset.name), source.reading, name=dataset.display_name, where=f"{field}.")
        _add_own(source.reading, dataset.reading)
        if trains:
            self._require_accepted(dataset, source.reading, f"{field}.reading")
        return dataset.profile

    def _require_accepted(
        self, dataset: dataset_pb2.Dataset, reading: training_data_pb2.DatasetReading, field: str
    ) -> None:
        for finding in dataset.findings:
            left_out = {column.name for column in finding.columns} <= set(reading.ignored_columns)
            accepted = finding.code in reading.accepted_findings or (finding.columns and left_out)
            if finding.severity == check_pb2.SEVERITY_ERROR and not accepted:
                raise InvalidArgument(
                    f"{field}: {finding.message}",
                    reason=finding.code,
                    violations=(Violation(field, finding.message),),
                )

    def create(self, request: dataset_pb2.CreateDatasetRequest) -> dataset_pb2.CreateDatasetResponse:
        """Start an upload, or give the dataset of the same content."""
        project = project_of(request.parent)
        body = body_hash(request, "request_id", "parent")
        known = self._answers.find(project, request.request_id, "CreateDataset", body)
        if known in self._deleted:
            text = "This request made a dataset that was deleted; use a new request_id."
            raise FailedPrecondition(text, reason="DATASET_DELETED")
        mine = [each for each in self._datasets.values() if each.name.startswith(f"{project}/")]
        made = self._datasets.get(known or "") or next((each for each in mine if each.sha256 == request.sha256), None)
        if made is None:
            self._require_room(request, mine)
            made = self._new(request, project)
        self._answers.keep(project, request.request_id, "CreateDataset", body, made.name)
        return dataset_pb2.CreateDatasetResponse(dataset=made)

    def _require_room(self, request: dataset_pb2.CreateDatasetRequest, mine: list[dataset_pb2.Dataset]) -> None:
        used = request.size_bytes + sum(each.size_bytes for each in mine)
        for size, limit in ((request.size_bytes, self.max_upload_bytes), (used, self.max_project_bytes)):
            if size > limit:
                text = f"size_bytes: {size} bytes; at most {limit} are allowed."
                raise ResourceExhausted(text, reason="DATASET_TOO_LARGE", metadata={"limit": str(limit)})

    def _new(self, request: dataset_pb2.CreateDatasetRequest, project: str) -> dataset_pb2.Dataset:
        uid, now = self._ids.new(), self._clock.timestamp()
        made = dataset_pb2.Dataset(
            name=f"{project}/datasets/{uid}",
            uid=uid,
            display_name=request.display_name,
            state=dataset_pb2.DATASET_STATE_UPLOADING,
            size_bytes=request.size_bytes,
            sha256=request.sha256,
            labels=request.labels,
            reading=request.reading if request.reading.ByteSize() else None,
            created_by="local",
            create_time=now,
            update_time=now,
        )
        self._bytes[made.name] = bytearray()
        self._datasets[made.name] = made
        return made

    def write(self, requests: Iterator[dataset_pb2.WriteDatasetRequest]) -> dataset_pb2.WriteDatasetResponse:
        """Commit every message as it arrives."""
        first = next(requests, None)
        if first is None or not first.name:
            raise invalid("name", "the first message must name the dataset")
        name = self.find(first.name).name
        self._append(name, first)
        for request in requests:
            self._append(name, request)
        with self._lock:
            dataset = self.find(name)
            if dataset.committed_bytes == dataset.size_bytes and dataset.state != dataset_pb2.DATASET_STATE_READY:
                self._check(dataset)
            return dataset_pb2.WriteDatasetResponse(dataset=dataset)

    def list(self, request: dataset_pb2.ListDatasetsRequest) -> dataset_pb2.ListDatasetsResponse:
        """List datasets, newest first, in pages."""
        project = project_of(request.parent)
        mine = [each for each in self._datasets.values() if each.name.startswith(f"{project}/")][::-1]
        datasets, token = page(mine, request, key=lambda each: each.name)
        return dataset_pb2.ListDatasetsResponse(datasets=datasets, next_page_token=token)

    def remove(self, name: str) -> None:
        """Remove a dataset."""
        del self._datasets[name], self._bytes[name]
        self._deleted.add(name)

    def _append(self, name: str, request: dataset_pb2.WriteDatasetRequest) -> None:
        with self._lock:
            dataset = self.find(name)
            if dataset.state == dataset_pb2.DATASET_STATE_READY:
                raise FailedPrecondition("The dataset is complete; nothing is left to write.", reason="DATASET_READY")
            if not request.data:
                return
            if request.offset != dataset.committed_bytes:
                raise OutOfRange(
                    f"offset: the next byte is {dataset.committed_bytes}, not {request.offset}; go on from there.",
                    reason="OFFSET_MISMATCH",
                    metadata={"committed_bytes": str(dataset.committed_bytes)},
                )
            if request.offset + len(request.data) > dataset.size_bytes:
                text = f"goes beyond the {dataset.size_bytes} bytes that CreateDataset stated"
                raise invalid("data", text, "SIZE_MISMATCH")
            self._bytes[name] += request.data
            dataset.committed_bytes = len(self._bytes[name])
            dataset.update_time.CopyFrom(self._clock.timestamp())
            if self._cut_after is not None and dataset.committed_bytes >= self._cut_after:
                self._cut_after = None
                raise Unavailable("the upload was cut", reason="SERVER_STOPPING")

    def _check(self, dataset: dataset_pb2.Dataset) -> None:
        content = bytes(self._bytes[dataset.name])
        found = hashlib.sha256(content).hexdigest()
        if found != dataset.sha256:
            self._bytes[dataset.name].clear()
            dataset.committed_bytes = 0
            text = "does not match the uploaded bytes; upload them again from offset 0"
            raise invalid("sha256", text, "HASH_MISMATCH", sha256=found)
        try:
            checked = check_rows(content, dataset.reading, name=dataset.display_name)
        except FinetreeError:
            del self._datasets[dataset.name], self._bytes[dataset.name]
            self._answers.forget(dataset.name)
            raise
        dataset.profile.CopyFrom(checked.profile)
        dataset.row_format = checked.row_format
        dataset.file_format = training_data_pb2.FILE_FORMAT_JSONL
        dataset.compression = training_data_pb2.COMPRESSION_NONE
        dataset.findings.extend(self.findings)
        dataset.state = dataset_pb2.DATASET_STATE_READY


def _add_own(reading: training_data_pb2.DatasetReading, own: training_data_pb2.DatasetReading) -> None:
    """Read a dataset as its creator said where a job says nothing of rows; what was accepted stays accepted."""
    said = training_data_pb2.DatasetReading()
    said.CopyFrom(reading)
    del said.accepted_findings[:], said.ignored_columns[:]
    if not own.ByteSize() or said.ByteSize():
        return
    merged = training_data_pb2.DatasetReading()
    merged.CopyFrom(own)
    for name in ("accepted_findings", "ignored_columns"):
        known = getattr(merged, name)
        known.extend(each for each in getattr(reading, name) if each not in known)
    reading.CopyFrom(merged)
