# SPDX-License-Identifier: Apache-2.0
"""Endpoints of jobs: create, retrieve, list, cancel, pause, resume."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import finetree
from finetree_api.trainer.v1 import job_pb2
from starlette.requests import Request
from starlette.responses import Response

from finetree_console.errors import Json
from finetree_console.openai.errors import refusal
from finetree_console.openai.files.results import result_ids
from finetree_console.openai.ids import job_of
from finetree_console.openai.jobs.create import create_once
from finetree_console.openai.jobs.memory import memory_of
from finetree_console.openai.jobs.object import ENDED, job_object, metadata_of, metadata_parts
from finetree_console.openai.jobs.request import read_create
from finetree_console.openai.jobs.template import template_of
from finetree_console.openai.lists import limit_of, page, select
from finetree_console.rpc.body import check_media_type, parse_json, read_body

MOST = 100

_PAIR = re.compile(r"metadata\[(.*)\]", re.DOTALL)


async def create_job(request: Request) -> Response:
    """POST /v1/fine_tuning/jobs."""
    client: finetree.AsyncClient = request.app.state.client
    body = await read_body(request, max_bytes=request.app.state.settings.max_body_bytes)
    check_media_type(request)
    asked = read_create(parse_json(body))
    job = await create_once(client, request, body, lambda: template_of(client, asked))
    return Json(await _object(client, request, job))


async def get_job(request: Request) -> Response:
    """GET /v1/fine_tuning/jobs/{id}."""
    client: finetree.AsyncClient = request.app.state.client
    return Json(await _object(client, request, await _job(client, request)))


async def list_jobs(request: Request) -> Response:
    """GET /v1/fine_tuning/jobs, newest first."""
    client: finetree.AsyncClient = request.app.state.client
    limit = limit_of(request, default=20, most=MOST)
    last = request.query_params.get("after")
    last_uid = job_of(last, "after") if last is not None else ""
    jobs, more = await select(_matching(client, _wanted(request)), lambda job: job.uid, last_uid, limit)
    return page([await _object(client, request, job) for job in jobs], more=more)


async def cancel_job(request: Request) -> Response:
    """POST /v1/fine_tuning/jobs/{id}/cancel; of an ended job nothing changes."""
    client: finetree.AsyncClient = request.app.state.client
    job = await _job(client, request)
    return Json(await _object(client, request, await client.job(job.name).cancel()))


async def pause_job(request: Request) -> Response:
    """POST /v1/fine_tuning/jobs/{id}/pause."""
    client: finetree.AsyncClient = request.app.state.client
    job = await _job(client, request)
    return Json(await _object(client, request, await client.job(job.name).pause()))


async def resume_job(request: Request) -> Response:
    """POST /v1/fine_tuning/jobs/{id}/resume."""
    client: finetree.AsyncClient = request.app.state.client
    job = await _job(client, request)
    return Json(await _object(client, request, await client.job(job.name).resume()))


async def _job(client: finetree.AsyncClient, request: Request) -> job_pb2.Job:
    """Get the job of a request's path. Raises RefusedError for one that does not train."""
    name = request.path_params["id"]
    job = await client.get_job(job_of(name))
    if not job.HasField("train"):
        raise refusal("fine_tuning_job_id", f"{name!r} does not train a model", "JOB_NOT_FOUND", status=404)
    return job


async def _object(client: finetree.AsyncClient, request: Request, job: job_pb2.Job) -> dict[str, Any]:
    files, tokens = await _results(client, request, job)
    return job_object(job, result_files=files, trained_tokens=tokens, now=time.time())


async def _results(client: finetree.AsyncClient, request: Request, job: job_pb2.Job) -> tuple[list[str], int | None]:
    """Result files and trained tokens of a job; none while it has not ended."""
    if job.state not in ENDED:
        return [], None
    memory = memory_of(request)
    found = memory.results.get(job.uid)
    if found is None:
        handle = client.job(job.name)
        last = await handle.list_events(last=1, kinds=["terminal"])
        tokens = last[0].terminal.summary.processed_tokens if last else 0
        found = (result_ids(job, await handle.artifacts()), tokens)
        memory.results.put(job.uid, found)
    return found


async def _matching(client: finetree.AsyncClient, wanted: Mapping[str, str] | None) -> AsyncIterator[job_pb2.Job]:
    """Jobs whose metadata has all pairs that are wanted; None: that have no metadata."""
    labels, _ = metadata_parts(wanted or {})
    async for job in client.list_jobs(tasks=["train"], labels=labels, page_size=MOST):
        found = metadata_of(job)
        if (not found) if wanted is None else wanted.items() <= found.items():
            yield job


def _wanted(request: Request) -> Mapping[str, str] | None:
    """Pairs that the query's metadata[key]=value ask for; None for metadata=null."""
    if request.query_params.get("metadata") == "null":
        return None
    pairs = {}
    for name, value in request.query_params.multi_items():
        if found := _PAIR.fullmatch(name):
            pairs[found[1]] = value
    return pairs
