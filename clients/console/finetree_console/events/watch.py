# SPDX-License-Identifier: Apache-2.0
"""The route of WatchJob: a job's events, each once and in order, from any point, until its Terminal event."""

from __future__ import annotations

import asyncio
from datetime import UTC

from finetree_api.trainer.v1 import event_log_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from finetree_console.connection import Streamed
from finetree_console.events.frames import following, frames
from finetree_console.rpc.contract import method_of
from finetree_console.rpc.query import message_of_query

LAST_EVENT_ID = "last-event-id"
"""Header in which a browser sends the id of the last event that it has, when it attaches again."""
DEFAULT_HEARTBEAT = 10.0
STATUS_SECONDS = 1.0
"""Longest wait for the first event before the response begins: what is refused until then has a status of its own."""
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


def routes() -> list[Route]:
    """The route of WatchJob."""
    return [Route(method_of(event_log_pb2.WatchJobRequest).path, watch, methods=["GET"])]


async def watch(request: Request) -> Response:
    """Stream a job's events.

    Raises:
        FinetreeError: what the service refuses within `STATUS_SECONDS`; later it is an event of the type "failure".
    """
    asked = _asked(request)
    request.state.slot.become_stream()
    heartbeat = asked.heartbeat.ToNanoseconds() / 1e9 if asked.HasField("heartbeat") else DEFAULT_HEARTBEAT
    events = request.app.state.client.job(asked.name).events(
        after_seq=asked.after_seq,
        cursor=asked.cursor,
        after_time=asked.after_time.ToDatetime(UTC) if asked.HasField("after_time") else None,
        now=asked.HasField("now"),
        kinds=tuple(asked.kinds),
        min_level=asked.min_level,
        max_step_events_per_second=asked.max_step_events_per_second,
        min_interval=asked.min_interval.ToNanoseconds() / 1e9,
        heartbeat=heartbeat,
    )
    first = asyncio.ensure_future(following(events))
    try:
        await asyncio.wait({first}, timeout=STATUS_SECONDS)
        if first.done() and isinstance(first.exception(), StopAsyncIteration):
            await events.close()
            return Response(status_code=204)  # the job has ended before: to a browser it says not to attach again
        if first.done():
            first.result()
    except BaseException:
        first.cancel()
        await events.close()
        raise

    async def release() -> None:
        first.cancel()
        await events.close()

    draining, request_id = request.app.state.draining, request.state.request_id
    body = frames(events, first, draining, heartbeat=heartbeat, request_id=request_id)
    return Streamed(body, headers=HEADERS, release=release)


def _asked(request: Request) -> event_log_pb2.WatchJobRequest:
    asked = message_of_query(request.query_params.multi_items(), event_log_pb2.WatchJobRequest)
    assert isinstance(asked, event_log_pb2.WatchJobRequest)  # noqa: S101  # as was asked for
    last = request.headers.get(LAST_EVENT_ID)
    if last:
        asked.cursor = last  # a member of the same oneof as the other starts, which it replaces
    return asked
