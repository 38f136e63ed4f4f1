# SPDX-License-Identifier: Apache-2.0
"""Routes of the unary rpcs: POST with a JSON body, and GET with query parameters where the rpc changes nothing."""

from __future__ import annotations

import math
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from finetree import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from finetree_console.connection import unless_gone
from finetree_console.errors import Json, invalid
from finetree_console.rpc.body import read_message
from finetree_console.rpc.contract import Method, methods
from finetree_console.rpc.query import message_of_query

TIMEOUT = "x-request-timeout"
"""Header with the seconds that a call may take."""
MIN_TIMEOUT, MAX_TIMEOUT = 0.001, 300.0
IDEMPOTENCY_KEY = "idempotency-key"
"""Header that fills `request_id` of a request that has the field and leaves it empty."""


def routes() -> list[Route]:
    """One route for each unary rpc."""
    return [
        Route(method.path, _endpoint(method), methods=["GET", "POST"] if method.safe else ["POST"], name=method.path)
        for method in methods()
        if method.unary
    ]


def _endpoint(method: Method) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        if request.method == "POST":
            limit = request.app.state.settings.max_body_bytes
            message = await read_message(request, method.request, max_bytes=limit)
        else:
            message = message_of_query(request.query_params.multi_items(), method.request)
        _fill_request_id(message, request)
        call = request.app.state.client.call(method.rpc, message, timeout=timeout_of(request))
        return Json(to_json(await unless_gone(request, call), defaults=True))

    return answer


def timeout_of(request: Request) -> float | None:
    """Seconds that the request's header allows for the call; None: the default of the rpc.

    Raises:
        HttpError: INVALID_REQUEST.
    """
    text = request.headers.get(TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not MIN_TIMEOUT <= seconds <= MAX_TIMEOUT:
        raise invalid(f"[{TIMEOUT}]", f"{text!r} is no number of seconds from {MIN_TIMEOUT:g} to {MAX_TIMEOUT:g}")
    return seconds


def _fill_request_id(message: Any, request: Request) -> None:
    """Give a request that writes an idempotency key: the call may be sent again on its way to the service."""
    if "request_id" not in message.DESCRIPTOR.fields_by_name or message.request_id:
        return
    message.request_id = request.headers.get(IDEMPOTENCY_KEY) or str(uuid.uuid4())
