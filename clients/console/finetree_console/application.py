# SPDX-License-Identifier: Apache-2.0
"""The application: its routes, the client that it calls the services with, and how errors are rendered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import finetree
from finetree import FinetreeError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from finetree_console.errors import HttpError, response_of
from finetree_console.guard.middleware import REQUEST_ID, Guard
from finetree_console.openai import routes as openai
from finetree_console.rpc import unary
from finetree_console.settings import Settings


def routes() -> list[BaseRoute]:
    """Routes of everything that the console serves."""
    return [*unary.routes(), *openai.routes()]


def build(settings: Settings, served: Sequence[BaseRoute] | None = None) -> Starlette:
    """Make the application.

    Its state has `settings`, `draining` (set when the server stops: streams are to end), and while it runs `client`,
    one AsyncClient for all requests. The metadata of the calls that a request makes with it (credentials, request id,
    trace) are those of the request.

    Args:
        settings: what it is set to.
        served: its routes; None means all of `routes`.
    """
    app = Starlette(
        routes=routes() if served is None else served,
        middleware=[Middleware(Guard)],
        exception_handlers={FinetreeError: _refuse, HTTPException: _refuse_by_status, Exception: _fail},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.settings = settings
    app.state.draining = asyncio.Event()
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    app.state.client = finetree.AsyncClient(
        profile="",  # what somebody set up for their shell is no setting of this program
        recommender_address=settings.recommender_address,
        estimator_address=settings.estimator_address,
        trainer_address=settings.trainer_address,
    )
    async with app.state.client:
        yield


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, FinetreeError)  # noqa: S101  # Starlette calls it for these alone
    return response_of(error, request.state.request_id)


def _refuse_by_status(request: Request, error: Exception) -> Response:
    """Render what Starlette itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101  # likewise
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        refused = HttpError(
            f"{request.method} is not for {path}; use {allowed}",
            status=405,
            code="UNIMPLEMENTED",
            reason="METHOD_NOT_ALLOWED",
            headers=error.headers,
        )
    else:
        text = f"nothing is served at {path}; /openapi.json lists what is"
        refused = HttpError(text, status=error.status_code, code="NOT_FOUND", reason="PATH_NOT_FOUND")
    return response_of(refused, request.state.request_id)


def _fail(request: Request, error: Exception) -> Response:  # noqa: ARG001  # the server logs the error itself
    request_id = request.state.request_id
    text = f"internal error {request_id}: the console's log has the cause under this id"
    response = response_of(HttpError(text, status=500, code="INTERNAL", reason="INTERNAL_ERROR"), request_id)
    response.headers[REQUEST_ID] = request_id  # Starlette renders this one outside of the guard
    return response
