# SPDX-License-Identifier: Apache-2.0
"""Endpoints of files: upload, list, retrieve, content and delete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import finetree
from finetree_api.trainer.v1 import dataset_pb2
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from finetree_console.errors import Json
from finetree_console.openai.errors import refusal
from finetree_console.openai.files.results import result_content, result_object, result_objects
from finetree_console.openai.ids import dataset_of, file_id, result_of
from finetree_console.openai.lists import limit_of, page, select
from finetree_console.transfer.uploads import STALLED_SECONDS

PURPOSE = "fine-tune"
RESULTS = "fine-tune-results"
MOST = 10_000
MOST_RESULTS = 100
"""Largest page of results: each job's metrics are read for it."""
MAX_FIELD_BYTES = 64 * 1024
"""Largest part of a form that is not the file."""


async def create_file(request: Request) -> Response:
    """POST /v1/files: upload a dataset; the same content gives the same file."""
    client: finetree.AsyncClient = request.app.state.client
    request.state.slot.become_stream()
    limit = (await client.capacity()).limits.get("max_upload_bytes", 0)
    form = await _read_form(request, limit + MAX_FIELD_BYTES if limit else None)
    try:
        file = _form_file(form)
        dataset = await client.upload_dataset(file.file, display_name=(file.filename or "")[:256])
    finally:
        await form.close()
    return Json(_object(dataset))


async def _read_form(request: Request, most: int | None) -> FormData:
    """Read a multipart form of at most `most` bytes; the file is kept in memory up to 1 MiB, else on the disk.

    Raises:
        RefusedError: MALFORMED_REQUEST, DATASET_TOO_LARGE, BODY_TOO_SLOW.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise refusal("file", "file: send the rows as the part `file` of a multipart form")
    parser = MultiPartParser(
        request.headers, _bounded(request, most), max_files=1, max_fields=8, max_part_size=MAX_FIELD_BYTES
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise refusal("", f"the body is no form with a file: {error.message}", "MALFORMED_REQUEST") from None


async def _bounded(request: Request, most: int | None) -> AsyncGenerator[bytes, None]:
    size, pieces = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                piece = await anext(pieces, None)
        except TimeoutError:
            text = f"nothing of the body arrived for {STALLED_SECONDS:g} s; send it again"
            raise refusal("file", text, "BODY_TOO_SLOW", status=408) from None
        if piece is None:
            return
        size += len(piece)
        if most is not None and size > most:
            raise refusal("file", f"the file has more than {most} bytes", "DATASET_TOO_LARGE", status=413)
        yield piece


def _form_file(form: FormData) -> UploadFile:
    """Return the file of a form. Raises RefusedError for what is not supported."""
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise refusal("file", "file: send the rows as the part `file` of a multipart form")
    if purpose != PURPOSE:
        raise refusal("purpose", f"purpose: only {PURPOSE!r} is supported, got {purpose!r}", "PURPOSE_UNSUPPORTED")
    if form.get("expires_after[seconds]") is not None:
        text = "expires_after: files are kept until they are deleted; leave it out"
        raise refusal("expires_after", text, "EXPIRY_UNSUPPORTED")
    return file


async def list_files(request: Request) -> Response:
    """GET /v1/files: uploaded files; with purpose=fine-tune-results the results of jobs that succeeded."""
    client: finetree.AsyncClient = request.app.state.client
    query = request.query_params
    most = MOST_RESULTS if query.get("purpose") == RESULTS else MOST
    limit = limit_of(request, default=most, most=most)
    if query.get("order", "desc") not in ("asc", "desc"):
        raise refusal("order", "order: expected 'asc' or 'desc'")
    items = _results(client) if query.get("purpose") == RESULTS else _uploads(client, query.get("purpose", PURPOSE))
    if query.get("order") == "asc":
        oldest_first = [item async for item in items][::-1]
        items = _iterate(oldest_first)
    found, more = await select(items, lambda item: str(item["id"]), query.get("after", ""), limit)
    return page(found, more=more)


async def get_file(request: Request) -> Response:
    """GET /v1/files/{id}."""
    client: finetree.AsyncClient = request.app.state.client
    name = request.path_params["id"]
    result = result_of(name)
    if result is not None:
        return Json(await result_object(client, result))
    return Json(_object(await _dataset(client, name)))


async def get_content(request: Request) -> Response:
    """GET /v1/files/{id}/content: a result; the trainer does not give uploads back."""
    client: finetree.AsyncClient = request.app.state.client
    name = request.path_params["id"]
    result = result_of(name)
    if result is not None:
        return await result_content(request, result)
    await _dataset(client, name)
    text = f"{name!r} was uploaded, and uploads are not given back; the result_files of jobs are"
    raise refusal("file_id", text, "CONTENT_UNAVAILABLE")


async def delete_file(request: Request) -> Response:
    """DELETE /v1/files/{id}: an upload; results stay as long as their job."""
    client: finetree.AsyncClient = request.app.state.client
    name = request.path_params["id"]
    if result_of(name) is not None:
        raise refusal("file_id", f"{name!r} is a result; it stays as long as its job", "FILE_KEPT")
    await client.delete_dataset((await _dataset(client, name)).name)
    return Json({"id": name, "object": "file", "deleted": True})


async def _dataset(client: finetree.AsyncClient, name: str) -> dataset_pb2.Dataset:
    try:
        return await client.get_dataset(dataset_of(name, "file_id"))
    except finetree.NotFound as error:
        raise refusal("file_id", f"there is no file {name!r}", "FILE_NOT_FOUND", status=404) from error


async def _uploads(client: finetree.AsyncClient, purpose: str) -> AsyncIterator[dict[str, Any]]:
    if purpose == PURPOSE:
        async for dataset in client.list_datasets(page_size=1000):
            yield _object(dataset)


async def _results(client: finetree.AsyncClient) -> AsyncIterator[dict[str, Any]]:
    async for job in client.list_jobs(states=["succeeded"], tasks=["train"]):
        async for item in result_objects(client, job):
            yield item


async def _iterate(items: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for item in items:
        yield item


def _object(dataset: dataset_pb2.Dataset) -> dict[str, Any]:
    ready = dataset.state == dataset_pb2.DATASET_STATE_READY
    return {
        "id": file_id(dataset.uid),
        "object": "file",
        "bytes": dataset.size_bytes,
        "created_at": dataset.create_time.seconds,
        "filename": dataset.display_name,
        "purpose": PURPOSE,
        "status": "processed" if ready else "uploaded",
        "finetree": {"name": dataset.name, "sha256": dataset.sha256, "rows": dataset.profile.examples},
    }
