# SPDX-License-Identifier: Apache-2.0
"""The route of ReadJobLog: the log of a job's workers as plain text, which grows while it is followed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from finetree_api.trainer.v1 import job_log_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from finetree_console.connection import Streamed
from finetree_console.events.pieces import begun, following, paced
from finetree_console.rpc.contract import method_of
from finetree_console.rpc.query import message_of_query

HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    # What a library prints is never a page of this server.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold lines back
}


def routes() -> list[Route]:
    """The route of ReadJobLog."""
    return [Route(method_of(job_log_pb2.ReadJobLogRequest).path, read, methods=["GET"])]


async def read(request: Request) -> Response:
    """Stream a log from where the query says.

    Raises:
        FinetreeError: what the service refuses.
    """
    asked = message_of_query(request.query_params.multi_items(), job_log_pb2.ReadJobLogRequest)
    assert isinstance(asked, job_log_pb2.ReadJobLogRequest)  # noqa: S101  # as was asked for
    request.state.slot.become_stream()
    start = asked.WhichOneof("start")
    pieces = request.app.state.client.job(asked.name).read_log(
        attempt=asked.attempt,
        offset=asked.offset if start == "offset" else None,
        last_lines=asked.last_lines if start == "last_lines" else None,
        follow=asked.follow,
        last_attempt=asked.last_attempt,
    )
    first = asyncio.ensure_future(following(pieces))
    release = await begun(first, pieces.aclose)
    return Streamed(_lines(pieces, first, request.app.state.draining), headers=HEADERS, release=release)


async def _lines(
    pieces: AsyncGenerator[job_log_pb2.ReadJobLogResponse],
    first: asyncio.Future[job_log_pb2.ReadJobLogResponse | None],
    draining: asyncio.Event,
) -> AsyncGenerator[bytes]:
    """The text as it comes, until its end or until the server stops."""
    async with contextlib.aclosing(paced(pieces, first, draining)) as coming:
        async for piece in coming:
            if piece is not None:
                yield piece.text.encode()
