# SPDX-License-Identifier: Apache-2.0
"""Creating a job once, although a client whose answer was lost asks again.

The `openai` clients send a request again after a broken connection, without an idempotency key and with
`x-stainless-retry-count` above 0. Every job gets a label that is derived from its request, and a request_id from that
label and the number of jobs that have it. A request that comes again finds the job by the label; two that run at the
same time, through one door or through several, ask the trainer under the same request_id, which makes one job.
"""

from __future__ import annotations

import hashlib
import hmac
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import finetree
from finetree_api.trainer.v1 import job_pb2
from starlette.requests import Request

from finetree_console.openai.errors import refusal
from finetree_console.openai.jobs.memory import Memory, memory_of
from finetree_console.openai.jobs.object import REQUEST_LABEL

REPEAT_SECONDS = 600.0
"""Time in which a repeated request without an idempotency key is the same request."""
BODY = "openai.body"
"""Annotation: hash of the request's body, to refuse another body under the same idempotency key."""
KEY = "idempotency-key"
RETRY_COUNT = "x-stainless-retry-count"
MAX_KEY = 255
Build = Callable[[], Awaitable[job_pb2.JobTemplate]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two requests the same."""

    label: str
    """Hash of the caller's credential with the idempotency key, or without one with the body."""
    body: str
    """Hash of the caller's credential with the body."""
    keyed: bool
    """Whether there is an idempotency key."""
    again: bool
    """Whether the request may have been answered before."""


def identity_of(request: Request, body: bytes) -> Identity:
    """Identify a request.

    Raises:
        RefusedError: INVALID_REQUEST: the idempotency key is too long.
    """
    key = request.headers.get(KEY, "")
    if len(key) > MAX_KEY:
        raise refusal(KEY, f"{KEY}: at most {MAX_KEY} characters")
    caller = request.headers.get("authorization", "")
    content = _digest(caller, body)
    count = request.headers.get(RETRY_COUNT, "0")
    repeated = count.isascii() and count.isdecimal() and int(count) > 0
    return Identity(
        _digest(caller, b"key " + key.encode()) if key else content, content, bool(key), bool(key) or repeated
    )


async def create_once(client: finetree.AsyncClient, request: Request, body: bytes, build: Build) -> job_pb2.Job:
    """Create the job of a request, or return the one that the same request has made before.

    Raises:
        RefusedError: IDEMPOTENCY_KEY_REUSED: the key came with another body.
        FinetreeError: what the trainer answers.
    """
    identity, memory = identity_of(request, body), memory_of(request)
    async with memory.lock(identity.label):
        job = await _create(client, memory, identity, build)
        memory.made(identity.label)
        return job


async def _create(client: finetree.AsyncClient, memory: Memory, identity: Identity, build: Build) -> job_pb2.Job:
    made = await _made(client, identity.label)
    if found := _repeated(made, memory, identity):
        return found
    template = await build()
    template.labels[REQUEST_LABEL] = identity.label
    template.annotations[BODY] = identity.body
    try:
        return _snapshot(await client.create_job(template, request_id=f"openai-{identity.label}-{len(made)}"))
    except finetree.AlreadyExists:
        # Another door has made a job for this request meanwhile, with a recipe that came out otherwise.
        now_made = await _made(client, identity.label)
        if len(now_made) > len(made):
            return now_made[0]
    except finetree.FailedPrecondition as error:
        if error.reason != "JOB_DELETED":
            raise
    # The number of jobs is not that of the requests, since jobs were deleted.
    return _snapshot(await client.create_job(template, request_id=f"openai-{uuid.uuid4()}"))


async def _made(client: finetree.AsyncClient, label: str) -> list[job_pb2.Job]:
    """Jobs that the request has made, newest first."""
    return [job async for job in client.list_jobs(labels={REQUEST_LABEL: label}, page_size=1000)]


def _repeated(made: list[job_pb2.Job], memory: Memory, identity: Identity) -> job_pb2.Job | None:
    """The job that a repeated request asks for; None for a request that is new."""
    if not made or not identity.again:
        return None
    newest = made[0]
    if not identity.keyed:
        return newest if age_of(newest, memory, time.time()) <= REPEAT_SECONDS else None
    if newest.annotations.get(BODY) != identity.body:
        raise refusal(KEY, f"{KEY}: it came with another request before; take a new one", "IDEMPOTENCY_KEY_REUSED")
    return newest


def age_of(job: job_pb2.Job, memory: Memory, now: float) -> float:
    """Seconds since a request was answered with a job: as remembered here, else by the trainer's clock and `now`."""
    remembered = memory.seconds_since(job.labels[REQUEST_LABEL])
    return now - job.create_time.seconds if remembered is None else remembered


def _snapshot(job: finetree.AsyncJob) -> job_pb2.Job:
    assert job.snapshot is not None  # noqa: S101  # create_job has just been answered with it
    return job.snapshot


def _digest(caller: str, content: bytes) -> str:
    """Hash of what a caller sends: the credential is the key, so that the label tells nothing about the content."""
    return hmac.new(caller.encode(), content, hashlib.sha256).hexdigest()[:40]
