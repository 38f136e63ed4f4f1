# SPDX-License-Identifier: Apache-2.0
"""Events of a job: a list, newest first, or a stream of server-sent events that goes on after any of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import finetree
from finetree import to_json
from finetree_api.trainer.v1 import event_pb2, job_pb2
from starlette.requests import Request
from starlette.responses import Response

from finetree_console.connection import Streamed
from finetree_console.events.pieces import following, paced
from finetree_console.events.watch import HEADERS
from finetree_console.openai import errors
from finetree_console.openai.errors import refusal
from finetree_console.openai.ids import event_id, job_of, seq_of
from finetree_console.openai.jobs.object import ENDED
from finetree_console.openai.lists import limit_of, page

MOST = 500
"""Largest number of events of a page; the trainer gives twice that."""
SILENCE = 10.0
"""Seconds after which a stream without events sends a comment, so that proxies keep it open."""
STREAM = "text/event-stream"
EVENT = "fine_tuning.job.event"
LEVELS: Mapping[int, str] = {event_pb2.EVENT_LEVEL_WARNING: "warn", event_pb2.EVENT_LEVEL_ERROR: "error"}
"""`level` by level; everything else is "info"."""
METRICS = (event_pb2.EVENT_KIND_STEP_METRICS, event_pb2.EVENT_KIND_EVAL_METRICS)
FIRST = 1
"""Number of the event with which a job begins; it tells which method was chosen, and why."""


async def list_events(request: Request) -> Response:
    """GET /v1/fine_tuning/jobs/{id}/events, as a list or, if the client accepts it, as a stream."""
    client: finetree.AsyncClient = request.app.state.client
    job = client.job(job_of(request.path_params["id"]))
    if STREAM in request.headers.get("accept", ""):
        return await _stream(request, job)
    limit = limit_of(request, default=20, most=MOST)
    last = request.query_params.get("after")
    before = seq_of(last, "after") if last is not None else 0
    if before == FIRST:
        await job.refresh()
        return page([], more=False)
    found = await job.list_events(last=limit + 1, before_seq=before)
    newest_first = found[::-1]
    shown = newest_first[:limit]
    reason = await _reason(job) if any(event.seq == FIRST for event in shown) else None
    return page([event_object(event, reason) for event in shown], more=len(newest_first) > limit)


async def _stream(request: Request, job: finetree.AsyncJob) -> Response:
    last = request.headers.get("last-event-id") or request.query_params.get("after") or event_id(0)
    after = seq_of(last, "Last-Event-ID")
    known = await job.refresh()
    if after > known.last_seq or (after and after + 1 < known.oldest_seq):
        text = f"Last-Event-ID: this job has the events {event_id(known.oldest_seq)} to {event_id(known.last_seq)}"
        raise refusal("Last-Event-ID", text, "FUTURE_SEQ" if after > known.last_seq else "EVENTS_EXPIRED")
    request.state.slot.become_stream()
    events = job.events(after_seq=max(after, known.oldest_seq - 1), heartbeat=SILENCE)
    ended = known.state in ENDED and after == known.last_seq
    body = _frames(events, request.app.state.draining, _reason_of(known), ended=ended)
    return Streamed(body, headers=HEADERS, release=events.close)


async def _frames(
    events: finetree.AsyncEventStream, draining: asyncio.Event, reason: Mapping[str, Any] | None, *, ended: bool
) -> AsyncGenerator[bytes]:
    """Write events as frames, and "[DONE]" behind the last; a failure is a frame as well.

    Without "[DONE]" the server has stopped: the client goes on from its last id elsewhere. `ended` says that the last
    event lies before the first one that is written.
    """
    first = asyncio.ensure_future(following(events))
    try:
        async with contextlib.aclosing(paced(events, first, draining, heartbeat=SILENCE)) as coming:
            async for event in coming:
                if event is None:
                    yield b": \n\n"
                    continue
                yield _frame(event_object(event, reason), f"id: {event_id(event.seq)}\nevent: {EVENT}\n")
                ended = event.HasField("terminal")
    except finetree.FinetreeError as error:
        yield _frame({"error": errors.document(error)}, "event: error\n")
    else:
        if ended:
            yield b"data: [DONE]\n\n"


def _frame(document: Mapping[str, Any], head: str) -> bytes:
    return f"{head}data: {json.dumps(document, ensure_ascii=False, allow_nan=False)}\n\n".encode()


def event_object(event: event_pb2.JobEvent, reason: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make the object of an event; `reason` is why the job trains as it does, for its first event."""
    payload = event.WhichOneof("payload")
    data: dict[str, Any] = {
        "seq": event.seq,
        "kind": event_pb2.EventKind.Name(event.kind),
        "level": event_pb2.EventLevel.Name(event.level),
        "state": job_pb2.JobState.Name(event.state),
        "attempt": event.attempt,
    }
    if payload is not None:
        data[payload] = to_json(getattr(event, payload))
    message = event.message
    if event.kind == event_pb2.EVENT_KIND_STEP_METRICS:
        data |= _step(event.step_metrics)
    elif event.kind == event_pb2.EVENT_KIND_EVAL_METRICS:
        data |= _evaluation(event.eval_metrics)
    elif event.seq == FIRST and reason is not None:
        data |= reason
        message = f"{message.rstrip('.')}; {_chosen(reason)}"
    return {
        "id": event_id(event.seq),
        "object": EVENT,
        "created_at": event.event_time.seconds,
        "level": LEVELS.get(event.level, "info"),
        "message": message,
        "type": "metrics" if event.kind in METRICS else "message",
        "data": data,
    }


def _step(metrics: event_pb2.StepMetrics) -> dict[str, Any]:
    """Metrics of a step under the names that the interface's results have."""
    loss = metrics.loss if metrics.HasField("loss") else None
    return {"step": metrics.step, "total_steps": metrics.total_steps, "train_loss": loss}


def _evaluation(metrics: event_pb2.EvalMetrics) -> dict[str, Any]:
    loss = metrics.loss if metrics.HasField("loss") else None
    accuracy = metrics.token_accuracy if metrics.HasField("token_accuracy") else None
    return {"step": metrics.step, "valid_loss": loss, "valid_mean_token_accuracy": accuracy}


async def _reason(job: finetree.AsyncJob) -> Mapping[str, Any] | None:
    return _reason_of(await job.refresh())


def _reason_of(job: job_pb2.Job) -> Mapping[str, Any] | None:
    """Method of a job that trains, and the recommendation that it follows."""
    if not job.HasField("train"):
        return None
    found: dict[str, Any] = {"method": job.train.spec.WhichOneof("method")}
    if job.train.HasField("recommendation"):
        found["recommendation"] = to_json(job.train.recommendation)
    return found


def _chosen(reason: Mapping[str, Any]) -> str:
    why = reason.get("recommendation")
    if why is None:
        return f"the method is {reason['method']}, as the request says"
    return f"the method is {reason['method']}, as the recommender chose: {why.get('headline', '')}"
