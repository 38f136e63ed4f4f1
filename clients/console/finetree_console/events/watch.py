# SPDX-License-Identifier: Apache-2.0
"""The routes of WatchJob and WatchJobs: a job's events until its Terminal one, or those of all jobs."""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import TypeVar

from finetree import AsyncEventStream
from finetree_api.trainer.v1 import event_log_pb2, waiting_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from finetree_console.connection import Streamed
from finetree_console.events.frames import frames
from finetree_console.events.pieces import begun, following
from finetree_console.rpc.contract import method_of
from finetree_console.rpc.query import message_of_query

A = TypeVar("A", event_log_pb2.WatchJobRequest, waiting_pb2.WatchJobsRequest)

LAST_EVENT_ID = "last-event-id"
"""Header in which a browser sends the id of the last event that it has, when it attaches again."""
DEFAULT_HEARTBEAT = 10.0
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


def routes() -> list[Route]:
    """The routes of WatchJob and WatchJobs."""
    return [
        Route(method_of(event_log_pb2.WatchJobRequest).path, watch, methods=["GET"]),
        Route(method_of(waiting_pb2.WatchJobsRequest).path, watch_all, methods=["GET"]),
    ]


async def watch(request: Request) -> Response:
    """Stream a job's events.

    Raises:
        FinetreeError: what the service refuses within `STATUS_SECONDS`; later it is an event of the type "failure".
    """
    asked = _asked(request, event_log_pb2.WatchJobRequest)
    request.state.slot.become_stream()
    heartbeat = _heartbeat(asked)
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
    return await _streamed(request, events, heartbeat)


async def watch_all(request: Request) -> Response:
    """Stream the events of all jobs of a project, without end. Raises as `watch` does."""
    asked = _asked(request, waiting_pb2.WatchJobsRequest)
    request.state.slot.become_stream()
    heartbeat = _heartbeat(asked)
    events = request.app.state.client.watch_jobs(
        project=asked.parent.removeprefix("projects/"),
        cursor=asked.cursor,
        now=asked.HasField("now"),
        kinds=tuple(asked.kinds),
        min_level=asked.min_level,
        min_interval=asked.min_interval.ToNanoseconds() / 1e9,
        heartbeat=heartbeat,
    )
    return await _streamed(request, events, heartbeat)


async def _streamed(request: Request, events: AsyncEventStream, heartbeat: float) -> Response:
    first = asyncio.ensure_future(following(events))
    release = await begun(first, events.close)
    if first.done() and first.result() is None:
        await release()
        return Response(status_code=204)  # the job has ended before: to a browser it says not to attach again
    draining, request_id = request.app.state.draining, request.state.request_id
    body = frames(events, first, draining, heartbeat=heartbeat, request_id=request_id)
    return Streamed(body, headers=HEADERS, release=release)


def _heartbeat(asked: event_log_pb2.WatchJobRequest | waiting_pb2.WatchJobsRequest) -> float:
    return asked.heartbeat.ToNanoseconds() / 1e9 if asked.HasField("heartbeat") else DEFAULT_HEARTBEAT


def _asked(request: Request, kind: type[A]) -> A:
    asked = message_of_query(request.query_params.multi_items(), kind)
    assert isinstance(asked, kind)  # noqa: S101  # as was asked for
    last = request.headers.get(LAST_EVENT_ID)
    if last:
        asked.cursor = last  # a member of the same oneof as the other starts, which it replaces
    return asked
