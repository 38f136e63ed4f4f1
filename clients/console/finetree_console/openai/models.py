# SPDX-License-Identifier: Apache-2.0
"""Models: the trainer's base models by name, the models that jobs have made, and the targets that are served now."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import finetree
from finetree_api.trainer.v1 import base_model_pb2, job_pb2
from finetree_api.types.v1 import model_pb2
from starlette.requests import Request
from starlette.responses import Response

from finetree_console.errors import Json
from finetree_console.openai.chat import BASE
from finetree_console.openai.errors import refusal
from finetree_console.openai.ids import tuned_job
from finetree_console.openai.jobs.object import base_model, created_at, project_of, tuned_model

SHOWN_REVISION = 12
"""Digits of a commit in the id of a model that is here in several revisions."""


async def list_models(request: Request) -> Response:
    """GET /v1/models."""
    client: finetree.AsyncClient = request.app.state.client
    return Json({"object": "list", "data": [model async for model in _models(client)]})


async def get_model(request: Request) -> Response:
    """GET /v1/models/{model}."""
    client: finetree.AsyncClient = request.app.state.client
    wanted = request.path_params["model"]
    if tuned_job(wanted):
        job = await client.get_job(tuned_job(wanted))
        if job.state == job_pb2.JOB_STATE_SUCCEEDED and tuned_model(job) == wanted:
            return Json(_tuned(job))
    else:
        for name, model in (await base_models(client)).items():
            if name == wanted:
                return Json(_base(name, model))
        async for served in _served(client):
            if served["id"] == wanted:
                return Json(served)
    raise refusal("model", f"no model {wanted!r}; GET /v1/models lists them", "MODEL_NOT_FOUND", status=404)


async def base_models(client: finetree.AsyncClient) -> dict[str, base_model_pb2.BaseModel]:
    """Get the base models that can be trained, by the name that a request gives them."""
    ready = [model async for model in client.list_base_models() if model.state == base_model_pb2.BASE_MODEL_STATE_READY]
    revisions = Counter(model.source.hub.id for model in ready if model.source.HasField("hub"))
    return {_name(model.source, several=revisions[model.source.hub.id] > 1): model for model in ready}


def model_source(name: str, known: dict[str, base_model_pb2.BaseModel]) -> model_pb2.ModelSource:
    """Convert the name of a base model; one that is not on the machine is a name of the catalog or a hub's id."""
    if name in known:
        return known[name].source
    if "/" not in name:
        return model_pb2.ModelSource(name=name)
    hub_id, _, revision = name.partition("@")
    return model_pb2.ModelSource(hub=model_pb2.HubModel(id=hub_id, revision=revision))


async def _models(client: finetree.AsyncClient) -> AsyncIterator[dict[str, Any]]:
    for name, model in (await base_models(client)).items():
        yield _base(name, model)
    async for job in client.list_jobs(states=["succeeded"], tasks=["train"], page_size=1000):
        yield _tuned(job)
    async for served in _served(client):
        yield served


async def _served(client: finetree.AsyncClient) -> AsyncIterator[dict[str, Any]]:
    """The targets of all serving jobs, by the ids under which a chat completion asks for one of them and no other."""
    async for job in client.list_jobs(states=["running"], tasks=["serve"], page_size=1000):
        for target in (BASE, *(each.name for each in job.serve.loaded)):
            yield {
                "id": f"{job.uid}/{target}",
                "object": "model",
                "created": job.start_time.seconds or created_at(job),
                "owned_by": project_of(job),
                "finetree": {"job": job.name, "target": target},
            }


def _name(source: model_pb2.ModelSource, *, several: bool) -> str:
    if not source.HasField("hub"):
        return source.name or source.path
    return f"{source.hub.id}@{source.hub.revision[:SHOWN_REVISION]}" if several else source.hub.id


def _base(name: str, model: base_model_pb2.BaseModel) -> dict[str, Any]:
    owner = model.hub_id.partition("/")[0] or "finetree"
    return {"id": name, "object": "model", "created": model.create_time.seconds, "owned_by": owner}


def _tuned(job: job_pb2.Job) -> dict[str, Any]:
    return {
        "id": tuned_model(job),
        "object": "model",
        "created": job.end_time.seconds or created_at(job),
        "owned_by": project_of(job),
        "finetree": {"job": job.name, "base_model": base_model(job)},
    }
