# SPDX-License-Identifier: Apache-2.0
"""Calls of the trainer about datasets."""

from __future__ import annotations

import time
from collections.abc import Mapping

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import training_data_pb2

from finetree._shared import methods
from finetree._shared.channels import new_request_id
from finetree._shared.files import Content, Progress, Source
from finetree._shared.requests import Finding, enum_number, full_name, parent
from finetree._shared.retry import Backoff, deadline_after
from finetree._shared.uploads import Upload, create_request, default_name, file_format
from finetree._sync.pages import Pages
from finetree._sync.transport import Transport
from finetree.errors import FinetreeError


class Datasets:
    """Datasets of the client's project."""

    _transport: Transport

    def upload_dataset(
        self,
        source: Source,
        *,
        display_name: str = "",
        labels: Mapping[str, str] | None = None,
        reading: training_data_pb2.DatasetReading | None = None,
        on_progress: Progress | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> dataset_pb2.Dataset:
        """Upload a dataset; one that the project already has is not sent again. A cut upload goes on where it was.

        Args:
            source: path of a file (a str is a path), its bytes, or rows as dicts. A file may be JSONL, JSON, CSV, TSV,
                Parquet or plain text, all but Parquet also packed with gzip or zstd.
            display_name: name for people; empty means the file's name.
            labels: indexed labels.
            reading: how the file is read, where its content does not tell: columns, bad rows. Jobs that say nothing
                else read it so too.
            on_progress: called with (bytes that the service has, bytes in all).
            timeout: seconds for the whole; None means as long as it gets further.
            request_id: idempotency key; empty means a new one, made once per call.

        Returns:
            The dataset, READY: its hash and its rows are checked.

        Raises:
            InvalidArgument: EMPTY_DATASET, MALFORMED_ROW (with row and field), UNREADABLE_SOURCE, HASH_MISMATCH; and
                what else a file may be refused for (trainer.proto, WriteDataset).
            ResourceExhausted: DATASET_TOO_LARGE, DISK_FULL.
            Unavailable: it got no further for the client's `reconnect_timeout`.
            FinetreeTimeout: the timeout passed; the same call later goes on where it was.
        """
        backoff = Backoff(self._transport.options.reconnect_timeout, deadline_after(timeout))
        with Content(source) as content:
            request = create_request(
                content,
                parent(self._transport.options.project),
                default_name(source, display_name),
                labels,
                request_id or new_request_id(),
                format_=file_format(source),
                reading=reading,
            )
            created = self._transport.unary(
                methods.CREATE_DATASET, request, timeout=backoff.within(methods.QUICK), request_id=request.request_id
            )
            upload = Upload(content, created.dataset, on_progress)
            while not upload.done:
                try:
                    self._send(upload, backoff)
                except FinetreeError as error:
                    time.sleep(0.0 if upload.position_lost(error) else backoff.delay(error))
            return upload.dataset

    def get_dataset(self, name: str, *, timeout: float | None = None) -> dataset_pb2.Dataset:
        """A dataset as it is now.

        Args:
            name: resource name or short id.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: DATASET_NOT_FOUND.
        """
        request = dataset_pb2.GetDatasetRequest(name=full_name(self._transport.options.project, "datasets", name))
        return self._transport.unary(methods.GET_DATASET, request, timeout=timeout).dataset

    def list_datasets(self, *, page_size: int = 0, timeout: float | None = None) -> Pages[dataset_pb2.Dataset]:
        """Datasets of the project, newest first, fetched page by page.

        Args:
            page_size: largest page; 0 means the server's choice.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        project = parent(self._transport.options.project)

        def fetch(token: str) -> tuple[list[dataset_pb2.Dataset], str]:
            request = dataset_pb2.ListDatasetsRequest(parent=project, page_size=page_size, page_token=token)
            page = self._transport.unary(methods.LIST_DATASETS, request, timeout=timeout)
            return list(page.datasets), page.next_page_token

        return Pages(fetch)

    def preview_dataset(
        self,
        name: str = "",
        *,
        job: str = "",
        finding: Finding | str | int = 0,
        split: str = "",
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Pages[dataset_pb2.PreviewRow]:
        """Rows as training sees them, with what is learned, fetched page by page.

        Args:
            name: resource name or short id of the dataset; the newest PREPARE job that succeeded on it has kept them.
            job: resource name or short id of a PREPARE job, in place of `name`.
            finding: "TRUNCATED", "DROPPED" or "NO_TARGET" for such rows alone; 0 means all.
            split: "train", "evaluation", or empty for both.
            page_size: largest page; 0 means the server's choice.
            timeout: seconds for each page; None means the client's timeout, else 10.

        Raises:
            NotFound: DATASET_NOT_FOUND, JOB_NOT_FOUND.
            FailedPrecondition: NO_PREVIEW: run a PREPARE job on the dataset first.
        """
        project = self._transport.options.project
        request = dataset_pb2.PreviewDatasetRequest(
            name="" if job else full_name(project, "datasets", name),
            job=full_name(project, "jobs", job) if job else "",
            filter=enum_number(dataset_pb2.PreviewFilter, "PREVIEW_FILTER_", finding, "filter"),
            split=split,
            page_size=page_size,
        )

        def fetch(token: str) -> tuple[list[dataset_pb2.PreviewRow], str]:
            asked = dataset_pb2.PreviewDatasetRequest()
            asked.CopyFrom(request)
            asked.page_token = token
            page = self._transport.unary(methods.PREVIEW_DATASET, asked, timeout=timeout)
            return list(page.rows), page.next_page_token

        return Pages(fetch)

    def delete_dataset(self, name: str, *, timeout: float | None = None, request_id: str = "") -> None:
        """Delete a dataset.

        Args:
            name: resource name or short id.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: DATASET_NOT_FOUND.
            FailedPrecondition: DATASET_IN_USE: a job needs it.
        """
        request = dataset_pb2.DeleteDatasetRequest(
            name=full_name(self._transport.options.project, "datasets", name), request_id=request_id or new_request_id()
        )
        self._transport.unary(methods.DELETE_DATASET, request, timeout=timeout, request_id=request.request_id)

    def _send(self, upload: Upload, backoff: Backoff) -> None:
        try:
            if upload.stale:
                self._locate(upload, backoff)
            if not upload.done:
                answer = self._transport.upload(
                    methods.WRITE_DATASET, upload.segment(), timeout=backoff.within(methods.SEGMENT)
                )
                upload.now(answer.dataset)
                backoff.progressed()
        except FinetreeError:
            upload.stale = True
            raise

    def _locate(self, upload: Upload, backoff: Backoff) -> None:
        request = dataset_pb2.GetDatasetRequest(name=upload.dataset.name)
        found = self._transport.unary(methods.GET_DATASET, request, timeout=backoff.within(methods.QUICK)).dataset
        upload.stale = False
        if upload.now(found):
            backoff.progressed()
