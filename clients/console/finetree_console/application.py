# SPDX-License-Identifier: Apache-2.0
"""The application: its routes, the client that it calls the services with, and how errors are rendered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import finetree
from finetree import FinetreeError, InvalidArgument
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from finetree_console import health
from finetree_console.errors import HttpError, response_of
from finetree_console.events import generate, job_log, watch
from finetree_console.guard.capacity import Capacity
from finetree_console.guard.checks import check_head, check_origin, host_check, token_check
from finetree_console.guard.middleware import CREDENTIALS, REQUEST_ID, TRACE, Guard
from finetree_console.openai import routes as openai
from finetree_console.openapi import serve
from finetree_console.rpc import unary
from finetree_console.settings import Settings, SettingsError, is_local
from finetree_console.transfer import downloads, uploads


def routes() -> list[BaseRoute]:
    """Routes of everything that the console serves."""
    return [
        *health.routes(),
        *serve.routes(),
        *watch.routes(),
        *job_log.routes(),
        *generate.routes(),
        *uploads.routes(),
        *downloads.routes(),
        *openai.routes(),
        *unary.routes(),
    ]


def build(settings: Settings, served: Sequence[BaseRoute] | None = None) -> Starlette:
    """Make the application.

    Its state has `settings`, `draining` (set when the server stops: streams are to end), and while it runs `client`,
    one AsyncClient for all requests. The metadata of the calls that a request makes with it (credentials, request id,
    trace) are those of the request.

    Args:
        settings: what it is set to.
        served: its routes; None means all of `routes`.
    """
    token = [token_check(settings.token)] if settings.token else []
    guard = Middleware(
        Guard,
        checks=[check_head, host_check(settings.allowed_hosts), check_origin, *token],
        capacity=Capacity(settings.max_calls, settings.max_streams),
        # A token of the console's own is for nobody else; the calls carry what the client of the SDK is set to.
        passed_on=TRACE if settings.token else (CREDENTIALS, *TRACE),
        exempt=health.PATHS,
    )
    app = Starlette(
        routes=routes() if served is None else served,
        middleware=[guard],
        exception_handlers={FinetreeError: _refuse, HTTPException: _refuse_by_status, Exception: _fail},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.settings = settings
    app.state.draining = asyncio.Event()
    app.state.client = client_of(settings)
    return app


def client_of(settings: Settings) -> finetree.AsyncClient:
    """Make the client of the three services; it connects with its first call.

    Raises:
        SettingsError: SETTING_INVALID; INSECURE_UPSTREAM: credentials would travel in clear text over a network.
    """
    given = {
        "recommender": settings.recommender_address,
        "estimator": settings.estimator_address,
        "trainer": settings.trainer_address,
    }
    try:
        client = finetree.AsyncClient(
            profile="",  # what somebody set up for their shell is no setting of this program
            recommender_address=given["recommender"],
            estimator_address=given["estimator"],
            trainer_address=given["trainer"],
        )
    except InvalidArgument as error:
        raise SettingsError("SETTING_INVALID", error.message) from None
    for service, target in client.options.targets.items():
        said = (given[service] or "").startswith("http://")
        if target.tls is None and not said and not is_local(target.address):
            flag = f"--{service}-address"
            text = (
                f"{flag}: calls to {target.address} would carry tokens in clear text: "
                f"write https://{target.address}, or http://{target.address} if its network is trusted"
            )
            raise SettingsError("INSECURE_UPSTREAM", text)
    return client


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
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
