# SPDX-License-Identifier: Apache-2.0
"""Routes of the OpenAI-compatible interface, below /v1."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from finetree_console.openai.chat import complete_chat
from finetree_console.openai.errors import Endpoint, answered, refusal
from finetree_console.openai.files import endpoints as files
from finetree_console.openai.jobs import checkpoints, events
from finetree_console.openai.jobs import endpoints as jobs
from finetree_console.openai.models import get_model, list_models

PREFIX = "/v1"
JOBS = "/fine_tuning/jobs"
JOB = f"{JOBS}/{{id}}"


def routes() -> list[BaseRoute]:
    """Routes in the order in which a path is looked for; whatever else is below /v1 is refused in the same shape."""
    return [
        _route("POST", "/files", files.create_file),
        _route("GET", "/files", files.list_files),
        _route("GET", "/files/{id}", files.get_file),
        _route("DELETE", "/files/{id}", files.delete_file),
        _route("GET", "/files/{id}/content", files.get_content),
        _route("POST", JOBS, jobs.create_job),
        _route("GET", JOBS, jobs.list_jobs),
        _route("GET", JOB, jobs.get_job),
        _route("POST", f"{JOB}/cancel", jobs.cancel_job),
        _route("POST", f"{JOB}/pause", jobs.pause_job),
        _route("POST", f"{JOB}/resume", jobs.resume_job),
        _route("GET", f"{JOB}/events", events.list_events),
        _route("GET", f"{JOB}/checkpoints", checkpoints.list_checkpoints),
        _route("GET", "/models", list_models),
        _route("GET", "/models/{model:path}", get_model),
        _route("POST", "/chat/completions", complete_chat),
        Route(f"{PREFIX}/{{rest:path}}", answered(_unknown), methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]


def _route(method: str, path: str, endpoint: Endpoint) -> Route:
    return Route(f"{PREFIX}{path}", answered(endpoint), methods=[method])


async def _unknown(request: Request) -> Response:
    text = f"{request.method} {request.url.path} is not part of this interface: it has files, fine_tuning, models, chat"
    raise refusal("", text, "PATH_NOT_FOUND", status=404)
