# SPDX-License-Identifier: Apache-2.0
"""The route of WriteDataset: PUT of a file, or of what is missing of it from an offset."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator

from finetree import to_json
from finetree_api.trainer.v1 import dataset_pb2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from finetree_console.errors import HttpError, Json, invalid
from finetree_console.rpc.contract import method_of
from finetree_console.rpc.query import message_of_query
from finetree_console.transfer.ranges import sent_from

WRITE = method_of(dataset_pb2.WriteDatasetRequest)
PIECE_BYTES = 256 * 1024
"""Largest message of the stream to the service, which takes up to 1 MiB."""
SEGMENT_BYTES = 8 * 1024 * 1024
SEGMENT_SECONDS = 20.0
"""Bytes and time of one stream to the service; then the next one begins. Each has a deadline of its own."""
STALLED_SECONDS = 30.0
"""Longest time in which nothing of the body may arrive."""


def routes() -> list[Route]:
    """The route of WriteDataset."""
    return [Route(WRITE.path, upload, methods=["PUT"])]


async def upload(request: Request) -> Response:
    """Send the body on as it arrives. What has arrived is kept when the connection breaks.

    Raises:
        FinetreeError: OFFSET_MISMATCH (`metadata` has committed_bytes: go on there), BODY_TOO_SLOW, and what else the
            service answers.
    """
    asked = _asked(request)
    request.state.slot.become_stream()
    body, offset = Body(request.stream()), asked.offset
    while True:
        segment = _segment(body, asked.name, offset)
        answer = await request.app.state.client.call(WRITE.rpc, segment)
        assert isinstance(answer, dataset_pb2.WriteDatasetResponse)  # noqa: S101  # of this rpc
        body.check()
        if body.ended:
            return Json(to_json(answer, defaults=True))
        offset = answer.dataset.committed_bytes


class Body:
    """The body of an upload.

    Attributes:
        ended: nothing is left of it.
    """

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._waiting = b""
        self._failure: HttpError | None = None
        self.ended = False

    async def peek(self) -> bool:
        """Wait for the next bytes; False at the end, also where that is no good one."""
        while not (self._waiting or self.ended):
            try:
                async with asyncio.timeout(STALLED_SECONDS):
                    self._waiting = await anext(self._pieces)
            except StopAsyncIteration:
                self.ended = True
            except TimeoutError:
                text = f"nothing of the body arrived for {STALLED_SECONDS:g} s; go on from committed_bytes"
                self._fail(HttpError(text, status=408, code="DEADLINE_EXCEEDED", reason="BODY_TOO_SLOW"))
            except ClientDisconnect:
                self._fail(HttpError("the client hung up", status=499, code="CANCELLED", reason="CLIENT_GONE"))
        return not self.ended

    def take(self, count: int) -> bytes:
        """Take at most `count` of the bytes that `peek` waited for."""
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def check(self) -> None:
        """Raise what ended the body, unless it ended well.

        Raises:
            HttpError: BODY_TOO_SLOW, CLIENT_GONE.
        """
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: HttpError) -> None:
        # The stream to the service ends in order, so that it keeps what has arrived.
        self._failure, self.ended = error, True


async def _segment(body: Body, name: str, offset: int) -> AsyncGenerator[dataset_pb2.WriteDatasetRequest]:
    """Messages of one stream to the service; the first goes out also for a body without bytes."""
    begin, started = offset, time.monotonic()
    first = True
    while await body.peek():
        data = body.take(PIECE_BYTES)
        yield dataset_pb2.WriteDatasetRequest(name=name if first else "", offset=offset, data=data)
        first, offset = False, offset + len(data)
        if offset - begin >= SEGMENT_BYTES or time.monotonic() - started >= SEGMENT_SECONDS:
            await body.peek()  # whether another stream is needed
            return
    if first:
        yield dataset_pb2.WriteDatasetRequest(name=name, offset=offset)


def _asked(request: Request) -> dataset_pb2.WriteDatasetRequest:
    asked = message_of_query(request.query_params.multi_items(), dataset_pb2.WriteDatasetRequest)
    assert isinstance(asked, dataset_pb2.WriteDatasetRequest)  # noqa: S101  # as was asked for
    if asked.data:
        raise invalid("data", "is the body of the request, no parameter")
    if not asked.name:
        raise invalid("name", "is needed: the dataset that CreateDataset answered with")
    if request.headers.get("content-encoding", "identity") != "identity":
        text = "[content-encoding]: send the file as it is, compressed or not"
        raise HttpError(text, status=415, reason="UNSUPPORTED_MEDIA_TYPE")
    offset = sent_from(request.headers.get("content-range"))
    if offset is not None:
        if asked.offset not in (0, offset):
            raise invalid("offset", f"is {asked.offset}, and Content-Range begins at {offset}")
        asked.offset = offset
    return asked
