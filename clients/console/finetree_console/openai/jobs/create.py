# SPDX-License-Identifier: Apache-2.0
"""Creating a job once, although a client whose answer was lost asks again.

The `openai` clients send a request again after a broken connection, without an idempotency key and with
`x-stainless-retry-count` above 0. Every job gets a label that is derived from its request, and a request_id from that
label and the number of jobs that have it. A request that comes again finds the job by the label; two that run at the
same time, through one door or through several, ask the trainer under the same request_id, which makes one job.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
import uuid
import weakref
from collections.abc import Awaitable, Callable

import finetree
from finetree_api.trainer.v1 import job_pb2
from starlette.requests import Request

from finetree_console.openai.errors import refusal
from finetree_console.openai.jobs.object import REQUEST_LABEL

REPEAT_SECONDS = 600.0
"""Time in which a repeated request without an idempotency key is the same request."""
BODY = "openai.body"
"""Annotation: hash of the request's body, to refuse another body under the same idempotency key."""
KEY = "idempotency-key"
RETRY_COUNT = "x-stainless-retry-count"
MAX_KEY = 255

_running: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
"""One lock for each request that is being answered: what it has made is seen by the one that repeats it."""


async def create_once(
    client: finetree.AsyncClient,
    request: Request,
    body: bytes,
    build: Callable[[], Awaitable[job_pb2.JobTemplate]],
) -> job_pb2.Job:
    """Create the job of a request, or return the one that the same request has made before.

    Raises:
        Refusal: IDEMPOTENCY_KEY_REUSED: the key came with another body.
        FinetreeError: what the trainer answers.
    """
    key = request.headers.get(KEY, "")
    if len(key) > MAX_KEY:
        raise refusal(KEY, f"{KEY}: at most {MAX_KEY} characters")
    caller = request.headers.get("authorization", "")
    content = _digest(caller, body)
    label = _digest(caller, b"key " + key.encode()) if key else content
    lock = _running.setdefault(label, asyncio.Lock())
    async with lock:
        return await _create(client, build, label=label, content=content, keyed=bool(key), again=_is_repeated(request))


async def _create(
    client: finetree.AsyncClient,
    build: Callable[[], Awaitable[job_pb2.JobTemplate]],
    *,
    label: str,
    content: str,
    keyed: bool,
    again: bool,
) -> job_pb2.Job:
    made = await _made(client, label)
    if found := _repeated(made, content, keyed=keyed, again=again):
        return found
    template = await build()
    template.labels[REQUEST_LABEL] = label
    template.annotations[BODY] = content
    try:
        return _snapshot(await client.create_job(template, request_id=f"openai-{label}-{len(made)}"))
    except (finetree.AlreadyExists, finetree.FailedPrecondition) as error:
        if error.reason not in ("REQUEST_ID_REUSED", "JOB_DELETED"):
            raise
    # Another door has made a job under this id meanwhile, with a recipe that came out otherwise; or it was deleted.
    if found := _repeated(await _made(client, label), content, keyed=keyed, again=again):
        return found
    return _snapshot(await client.create_job(template, request_id=f"openai-{uuid.uuid4()}"))


async def _made(client: finetree.AsyncClient, label: str) -> list[job_pb2.Job]:
    """Jobs that the request has made, newest first."""
    return [job async for job in client.list_jobs(labels={REQUEST_LABEL: label}, page_size=1000)]


def _repeated(made: list[job_pb2.Job], content: str, *, keyed: bool, again: bool) -> job_pb2.Job | None:
    """The job that a repeated request asks for; None for a request that is new."""
    if not made:
        return None
    newest = made[0]
    if keyed:
        if newest.annotations.get(BODY) != content:
            raise refusal(KEY, f"{KEY}: it came with another request before; take a new one", "IDEMPOTENCY_KEY_REUSED")
        return newest
    return newest if again and time.time() - newest.create_time.seconds <= REPEAT_SECONDS else None


def _is_repeated(request: Request) -> bool:
    count = request.headers.get(RETRY_COUNT, "0")
    return count.isascii() and count.isdecimal() and int(count) > 0


def _snapshot(job: finetree.AsyncJob) -> job_pb2.Job:
    assert job.snapshot is not None  # noqa: S101  # create_job has just been answered with it
    return job.snapshot


def _digest(caller: str, content: bytes) -> str:
    """Hash of what a caller sends: the credential is the key, so that the label tells nothing about the content."""
    return hmac.new(caller.encode(), content, hashlib.sha256).hexdigest()[:40]
