# SPDX-License-Identifier: Apache-2.0
"""The route of DownloadArtifact: GET of one file, or of a range of it."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Sequence
from urllib.parse import quote

from finetree_api.trainer.v1 import artifact_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from finetree_console.connection import Streamed
from finetree_console.errors import HttpError, invalid
from finetree_console.rpc.contract import method_of
from finetree_console.rpc.query import message_of_query
from finetree_console.transfer.ranges import Part, requested

LONGEST_STEP = 9
"""Digits of the largest step of a checkpoint: it is an int32."""


def routes() -> list[Route]:
    """The route of DownloadArtifact."""
    return [Route(method_of(artifact_pb2.DownloadArtifactRequest).path, download, methods=["GET", "HEAD"])]


async def download(request: Request) -> Response:
    """Send a file, or what the Range header asks for; a stream of the service that breaks goes on where it was.

    Raises:
        FinetreeError: ARTIFACT_NOT_FOUND, FILE_NOT_FOUND, RANGE_NOT_SATISFIABLE, and what else the service answers.
    """
    asked = _asked(request)
    request.state.slot.become_stream()
    parent, _, step = asked.name.partition("/checkpoints/")
    job = request.app.state.client.job(parent.partition("/artifacts/")[0])
    files = (
        (await job.checkpoint(int(step), include_state=True)).files if step else _files(await job.artifacts(), asked)
    )
    file = _file(files, asked)
    etag = f'"{file.sha256}"'
    headers = {
        "Content-Type": file.media_type or "application/octet-stream",
        # A file that somebody trained is never a page of this server.
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.path.rpartition('/')[2], safe='')}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
    }
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    fresh = request.headers.get("if-range", etag) == etag
    part = requested(request.headers.get("range") if fresh else None, file.size_bytes)
    headers["Content-Length"] = str(part.end - part.start)
    if not part.whole:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{file.size_bytes}"
    status = 200 if part.whole else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    pieces = job.read_file(asked.name, asked.path, offset=part.start)
    return Streamed(_within(pieces, part), status=status, headers=headers, release=pieces.aclose)


async def _within(pieces: AsyncGenerator[bytes], part: Part) -> AsyncGenerator[bytes]:
    """Cut pieces that begin at the part's start off at its end."""
    missing = part.end - part.start
    while missing:
        piece = (await anext(pieces))[:missing]
        missing -= len(piece)
        yield piece


def _asked(request: Request) -> artifact_pb2.DownloadArtifactRequest:
    asked = message_of_query(request.query_params.multi_items(), artifact_pb2.DownloadArtifactRequest)
    assert isinstance(asked, artifact_pb2.DownloadArtifactRequest)  # noqa: S101  # as was asked for
    if asked.offset or asked.limit:
        raise invalid("offset" if asked.offset else "limit", "is not for downloads over HTTP; send a Range header")
    _, _, step = asked.name.partition("/checkpoints/")
    if "/artifacts/" not in asked.name and not (step.isdecimal() and len(step) <= LONGEST_STEP):
        raise invalid("name", "is written projects/{project}/jobs/{job}/artifacts/{artifact} or …/checkpoints/{step}")
    return asked


def _files(
    artifacts: list[artifact_pb2.Artifact], asked: artifact_pb2.DownloadArtifactRequest
) -> Sequence[artifact_pb2.ArtifactFile]:
    artifact = next((each for each in artifacts if each.name == asked.name), None)
    if artifact is None:
        text = f"name: the job has no such artifact; it has {', '.join(each.name for each in artifacts) or 'none'}"
        raise HttpError(text, status=404, code="NOT_FOUND", reason="ARTIFACT_NOT_FOUND")
    return artifact.files


def _file(
    files: Sequence[artifact_pb2.ArtifactFile], asked: artifact_pb2.DownloadArtifactRequest
) -> artifact_pb2.ArtifactFile:
    file = next((each for each in files if each.path == asked.path), None)
    if file is None:
        text = f"path: there is no such file; there are {', '.join(each.path for each in files)}"
        raise HttpError(text, status=404, code="NOT_FOUND", reason="FILE_NOT_FOUND")
    return file
