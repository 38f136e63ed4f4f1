# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Calls of the trainer about datasets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import training_data_pb2

from finetree._async.pages import AsyncPages
from finetree._async.transport import AsyncTransport
from finetree._shared import rpcs, trainer_requests
from finetree._shared.channels import new_request_id
from finetree._shared.downloads import Progress
from finetree._shared.retry import Backoff, deadline_after
from finetree._shared.trainer_requests import Finding, full_name
from finetree._shared.uploads import Content, Source, Upload, create_dataset
from finetree.errors import FinetreeError


class AsyncDatasetCalls:
    """Datasets of the client's project."""

    _transport: AsyncTransport

    async def upload_dataset(
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
        """Upload a dataset; one that the project already has is not sent again. A cut upload continues where it was.

        Args:
            source: path of a file (a str is a path), its bytes, a binary file that is open (it is closed at the end),
                or rows as dicts. A file may be JSONL, JSON, CSV, TSV, Parquet or plain text, all but Parquet also
                compressed with gzip or zstd.
            display_name: name for people; empty means the file's name.
            labels: labels.
            reading: how the file is read, where its content does not show it: columns, bad rows. It is the default of
                jobs on this dataset.
            on_progress: called with (bytes that the service has, bytes in all).
            timeout: seconds for the whole; None means as long as it makes progress.
            request_id: idempotency key; empty means a new one, made once per call.

        Returns:
            The dataset, READY: its hash and its first rows (16 MiB of content) are checked.

        Raises:
            InvalidArgument: EMPTY_DATASET, MALFORMED_ROW (with row and field), UNREADABLE_SOURCE, HASH_MISMATCH; and
                what else a file may be refused for (trainer.proto, WriteDataset).
            ResourceExhausted: DATASET_TOO_LARGE, DISK_FULL.
            Unavailable: it made no progress for the client's `reconnect_timeout`.
            FinetreeTimeout: the timeout passed; the same call later continues where it was.
        """
        backoff = Backoff(self._transport.options.reconnect_timeout, deadline_after(timeout))
        with await asyncio.to_thread(Content, source) as content:
            request = create_dataset(
                self._transport.options.project,
                content,
                source,
                display_name=display_name,
                labels=labels,
                reading=reading,
                request_id=request_id or new_request_id(),
            )
            created = await self._transport.unary(
                rpcs.CREATE_DATASET, request, timeout=backoff.within(rpcs.QUICK), request_id=request.request_id
            )
            upload = Upload(content, created.dataset, on_progress)
            while not upload.done:
                try:
                    (await self._send(upload, backoff))
                except FinetreeError as error:
                    await asyncio.sleep(0.0 if upload.position_lost(error) else backoff.delay(error))
            return upload.dataset

    async def get_dataset(self, name: str, *, timeout: float | None = None) -> dataset_pb2.Dataset:
        """Get a dataset.

        Args:
            name: resource name or short id.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: DATASET_NOT_FOUND.
        """
        request = dataset_pb2.GetDatasetRequest(name=full_name(self._transport.options.project, "datasets", name))
        return (await self._transport.unary(rpcs.GET_DATASET, request, timeout=timeout)).dataset

    def list_datasets(
        self, *, page_size: int = 0, limit: int | None = None, page_token: str = "", timeout: float | None = None
    ) -> AsyncPages[dataset_pb2.Dataset]:
        """List the datasets of the project, newest first.

        Args:
            page_size: largest page; 0 means the server's choice.
            limit: items in all; None means every one.
            page_token: `next_page_token` of a page of this list, to continue behind it; empty means the beginning.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        listing = trainer_requests.list_datasets(self._transport.options.project, page_size)
        return AsyncPages(self._transport, listing, timeout, limit=limit, page_token=page_token)

    def preview_dataset(
        self,
        dataset: str = "",
        *,
        job: str = "",
        finding: Finding | str | int = 0,
        split: str | int = 0,
        page_size: int = 0,
        limit: int | None = None,
        page_token: str = "",
        timeout: float | None = None,
    ) -> AsyncPages[dataset_pb2.PreviewRow]:
        """List rows as training sees them, with what is learned.

        Args:
            dataset: resource name or short id; the newest `prepare` job that succeeded on it has kept the rows.
            job: resource name or short id of a `prepare` job, in place of `dataset`.
            finding: only rows that are "TRUNCATED", "DROPPED" or without a target ("NO_TARGET"); 0 means all.
            split: "train" or "evaluation"; 0 means both.
            page_size: largest page; 0 means the server's choice.
            limit: items in all; None means every one.
            page_token: `next_page_token` of a page of this list, to continue behind it; empty means the beginning.
            timeout: seconds for each page; None means the client's timeout, else 10.

        Raises:
            InvalidArgument: neither or both of dataset and job are given.
            NotFound: DATASET_NOT_FOUND, JOB_NOT_FOUND.
            FailedPrecondition: NO_PREVIEW: run a `prepare` job on the dataset first.
        """
        listing = trainer_requests.preview_dataset(
            self._transport.options.project,
            dataset=dataset,
            job=job,
            finding=finding,
            split=split,
            page_size=page_size,
        )
        return AsyncPages(self._transport, listing, timeout, limit=limit, page_token=page_token)

    async def delete_dataset(self, name: str, *, timeout: float | None = None, request_id: str = "") -> None:
        """Delete a dataset.

        Args:
            name: resource name or short id.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: DATASET_NOT_FOUND.
            FailedPrecondition: DATASET_IN_USE: a job needs it.
        """
        request = trainer_requests.delete_dataset(self._transport.options.project, name, request_id)
        (await self._transport.unary(rpcs.DELETE_DATASET, request, timeout=timeout, request_id=request.request_id))

    async def _send(self, upload: Upload, backoff: Backoff) -> None:
        try:
            if upload.stale:
                (await self._locate(upload, backoff))
            if not upload.done:
                answer = await self._transport.upload(
                    rpcs.WRITE_DATASET, _messages(upload), timeout=backoff.within(rpcs.SEGMENT)
                )
                upload.update(answer.dataset)
                backoff.progressed()
        except FinetreeError:
            upload.stale = True
            raise

    async def _locate(self, upload: Upload, backoff: Backoff) -> None:
        request = dataset_pb2.GetDatasetRequest(name=upload.dataset.name)
        found = (await self._transport.unary(rpcs.GET_DATASET, request, timeout=backoff.within(rpcs.QUICK))).dataset
        upload.stale = False
        if upload.update(found):
            backoff.progressed()


async def _messages(upload: Upload) -> AsyncIterator[dataset_pb2.WriteDatasetRequest]:
    messages = upload.segment()
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message
