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
from finetree_console.events.pieces import paced

RETRY_MILLISECONDS = 1000
"""Time after which a browser attaches again."""


async def frames(
    events: AsyncEventStream,
    first: asyncio.Future[event_pb2.JobEvent | None],
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


def frame(document: dict[str, Any], *, cursor: str = "", kind: str = "") -> bytes:
    """Write one event; `cursor` is its id, `kind` its type, empty for the usual one."""
    data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # One line of data: JSON escapes the line breaks of its texts.
    lines = [*([f"id: {cursor}"] if cursor else []), *([f"event: {kind}"] if kind else []), f"data: {data}"]
    return ("\n".join(lines) + "\n\n").encode()


def _heartbeat(cursor: str) -> bytes:
    """A comment, which no reader is told of; with an id where filters left events out, so that none is read again."""
    return (f": \nid: {cursor}\n\n" if cursor else ": \n\n").encode()
