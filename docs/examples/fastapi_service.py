# SPDX-License-Identifier: Apache-2.0
"""An HTTP service that recommends a fine-tuning recipe, and decides whether a run may start.

    pip install finetree fastapi uvicorn
    FINETREE_ADDRESS=127.0.0.1:50051 uvicorn fastapi_service:app

One client serves all requests; it is made when the service starts, and closed when it stops.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import finetree
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from finetree_api.types.v1 import check_pb2
from pydantic import BaseModel, ConfigDict, Field

log = logging.getLogger("fastapi_service")

STATUS: tuple[tuple[type[finetree.FinetreeError], int], ...] = (
    (finetree.InvalidArgument, 422),
    (finetree.NotFound, 404),
    (finetree.FailedPrecondition, 409),
    (finetree.ResourceExhausted, 429),
    (finetree.Unavailable, 503),
    (finetree.FinetreeTimeout, 504),
    # Our own credentials are wrong: no fault of whoever asks this service.
    (finetree.Unauthenticated, 502),
    (finetree.PermissionDenied, 502),
)
"""HTTP status of each error; 500 for the others."""


class Question(BaseModel):
    """What is known of a planned fine-tuning, in the words of `Client.recommend`; only the model is required."""

    model_config = ConfigDict(extra="forbid")

    model: str
    gpu: str | None = None
    examples: Annotated[int, Field(gt=0)] | None = None
    tokens_per_example: Annotated[int, Field(gt=0)] | None = None
    quality: Literal["maximum", "critical", "important", "acceptable", "experimental"] | None = None
    max_duration: str | None = None
    budget_per_run: str | None = None


class Limits(BaseModel):
    """What a run may take; what is not given is not limited."""

    model_config = ConfigDict(extra="forbid")

    cost: str | None = None
    """Such as "50 USD"."""
    duration_seconds: Annotated[float, Field(gt=0)] | None = None
    method: list[str] | None = None
    """Allowed ones, such as ["lora", "qlora"]."""


class Gate(BaseModel):
    """A recipe, as /recommendations returned it or changed since, and limits for it."""

    spec: dict[str, Any]
    limits: Limits


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the client for as long as the service runs; it connects with its first call, and again after a cut."""
    async with finetree.AsyncClient() as client:
        app.state.finetree = client
        yield


app = FastAPI(title="Fine-tuning desk", lifespan=lifespan)


def the_client(request: Request) -> finetree.AsyncClient:
    """Return the service's client."""
    client: finetree.AsyncClient = request.app.state.finetree
    return client


Client = Annotated[finetree.AsyncClient, Depends(the_client)]


@app.exception_handler(finetree.FinetreeError)
async def refused(_: Request, error: finetree.FinetreeError) -> JSONResponse:
    """Answer an error of the suite: a stable reason, the fields at fault, and when to come back."""
    status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
    if status >= 500:
        log.error("%s (request %s): %s", error.code, error.request_id, error)
    content = {
        "reason": error.reason or error.code,
        "message": error.message if status < 500 else "the fine-tuning service cannot answer now",
        "fields": [{"field": each.field, "message": each.description} for each in error.violations],
        "request_id": error.request_id,
    }
    wait = error.retry_after if error.retry_after is not None else (5.0 if status == 503 else None)
    headers = {"Retry-After": str(max(1, round(wait)))} if wait is not None else None
    return JSONResponse({"error": content}, status, headers)


@app.post("/recommendations")
async def recommend(question: Question, client: Client) -> dict[str, Any]:
    """Recommend a method and a complete recipe; without one that trains, the answer says what would."""
    answer = await client.recommend(**question.model_dump(exclude_none=True))  # pydantic has checked the words
    return {
        "headline": answer.verdict.headline,
        "trains": answer.HasField("spec"),
        "spec": finetree.to_json(answer.spec),
        "estimate": finetree.to_json(answer.estimate),
        "cautions": [caution.message for caution in answer.cautions],
        "ways_out": [way.message for way in answer.ways_out],
    }


@app.post("/gates")
async def gate(asked: Gate, client: Client) -> dict[str, Any]:
    """Decide whether a run may start; what is undecided does not pass."""
    policy = {"fit": True} | asked.limits.model_dump(exclude_none=True)
    answer = await client.check_plan(asked.spec, policy)
    return {
        "passed": answer.verdict in (check_pb2.CHECK_VERDICT_PASS, check_pb2.CHECK_VERDICT_WARN),
        "checks": [
            {"rule": check.rule_id, "verdict": verdict(check.verdict), "message": check.message}
            for check in answer.checks
        ],
        "remedies": [finetree.to_json(remedy) for remedy in answer.remedies],
    }


def verdict(number: check_pb2.CheckVerdict.ValueType) -> str:
    """Return a verdict as a word; one that a newer server has added is its number."""
    known = check_pb2.CheckVerdict.DESCRIPTOR.values_by_number.get(number)
    return known.name.removeprefix("CHECK_VERDICT_").lower() if known is not None else str(number)
