# SPDX-License-Identifier: Apache-2.0
"""Server-Sent Events as bytes (WHATWG HTML, section 9.2), made of a job's events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from finetree import AsyncEventStream, FinetreeError, to_json
from finetree_api.trainer.v1 import event_pb2

from finetree_console.errors import document_of

RETRY_MILLISECONDS = 1000
"""Time after which a browser attaches again."""


async def frames(
    events: AsyncEventStream,
    first: asyncio.Future[event_pb2.JobEvent],
    draining: asyncio.Event,
    *,
    heartbeat: float,
    request_id: str,
) -> AsyncGenerator[bytes]:
    """Write events until the Terminal one, or until the server stops.

    Args:
        events: what is written; the next one is read when the client has taken the one before.
        first: the first of them, which was begun to be read.
        draining: set when the server stops.
        heartbeat: seconds of silence after which a comment is written.
        request_id: to be named in an error.
    """
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    written = ""
    async with contextlib.aclosing(paced(events, first, draining, heartbeat=heartbeat)) as coming:
        try:
            async for event in coming:
                if event is not None:
                    yield frame(to_json(event, defaults=True), cursor=events.cursor)
                else:
                    yield _heartbeat("" if events.cursor == written else events.cursor)
                written = events.cursor
        except FinetreeError as error:
            yield frame(document_of(error, request_id), kind="failure")


async def paced(
    events: AsyncEventStream,
    first: asyncio.Future[event_pb2.JobEvent],
    draining: asyncio.Event,
    *,
    heartbeat: float,
) -> AsyncGenerator[event_pb2.JobEvent | None]:
    """Iterate over events as they come, with None for each `heartbeat` seconds of silence, until the server stops.

    The next event is read when the one before is taken. Arguments are those of `frames`.
    """
    coming, stopping = first, asyncio.ensure_future(draining.wait())
    try:
        while True:
            awaited: set[asyncio.Future[Any]] = {coming, stopping}
            await asyncio.wait(awaited, timeout=heartbeat, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                try:
                    event = coming.result()
                except StopAsyncIteration:
                    return
                yield event
                coming = asyncio.ensure_future(following(events))
            elif stopping.done():
                return
            else:
                yield None
    finally:
        coming.cancel()
        stopping.cancel()
        await asyncio.gather(coming, stopping, return_exceptions=True)


async def following(events: AsyncEventStream) -> event_pb2.JobEvent:
    """Read the next event; a coroutine, where `anext` gives something that no task can be made of."""
    return await anext(events)


def frame(document: dict[str, Any], *, cursor: str = "", kind: str = "") -> bytes:
    """Write one event; `cursor` is its id, `kind` its type, empty for the usual one."""
    data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # One line of data: JSON escapes the line breaks of its texts.
    lines = [*([f"id: {cursor}"] if cursor else []), *([f"event: {kind}"] if kind else []), f"data: {data}"]
    return ("\n".join(lines) + "\n\n").encode()


def _heartbeat(cursor: str) -> bytes:
    """A comment, which no reader is told of; with an id where filters left events out, so that none is read again."""
    return (f": \nid: {cursor}\n\n" if cursor else ": \n\n").encode()
