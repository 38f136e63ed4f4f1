# SPDX-License-Identifier: Apache-2.0
"""The first thing that sees a request: gives it an id, checks it, counts it, and passes its metadata on."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable

import finetree
from finetree import FinetreeError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finetree_console.errors import response_of
from finetree_console.guard.capacity import Capacity
from finetree_console.guard.checks import Check

CREDENTIALS = "authorization"
TRACE = ("traceparent", "tracestate")
"""Headers that go to the services as metadata of the calls made for a request."""
REQUEST_ID = "x-request-id"
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
"""Headers of every response, unless it has them already."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_METADATA = re.compile(r"[ -~]{1,8192}")
_log = logging.getLogger("finetree_console")


class Guard:
    """Surrounds an application.

    Args:
        app: the application.
        checks: run in this order before it.
        capacity: takes the request as a call; `request.state.slot` makes it a stream.
        passed_on: names of headers that go to the services with the calls of a request.
        exempt: paths that are neither checked nor counted: probes must be answered also when nothing else is.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        checks: Iterable[Check],
        capacity: Capacity,
        passed_on: Iterable[str],
        exempt: Iterable[str],
    ) -> None:
        self._app = app
        self._checks, self._capacity = tuple(checks), capacity
        self._passed_on, self._exempt = tuple(passed_on), frozenset(exempt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        started = time.monotonic()
        try:
            with finetree.call_metadata({**self._metadata(headers), REQUEST_ID: request_id}):
                await self._serve(scope, receive, answer.send)
        finally:
            line = {
                "event": "http",
                "method": scope["method"],
                "path": scope["path"],
                "status": answer.status,
                "ms": round((time.monotonic() - started) * 1000, 3),
                "request_id": request_id,
            }
            _log.info(json.dumps(line))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self._exempt:
            await self._app(scope, receive, send)
            return
        try:
            for check in self._checks:
                check(HTTPConnection(scope))
            slot = self._capacity.enter()
        except FinetreeError as error:
            await response_of(error, scope["state"]["request_id"])(scope, receive, send)
            return
        scope["state"]["slot"] = slot
        try:
            await self._app(scope, receive, send)
        finally:
            slot.leave()

    def _metadata(self, headers: Headers) -> dict[str, str]:
        """Headers to pass on; what gRPC does not take as metadata is left out."""
        found = {name: headers.get(name, "") for name in self._passed_on}
        return {name: value for name, value in found.items() if _METADATA.fullmatch(value)}


class _Answer:
    """Sends a response on, with the headers that all of them have; `status` is 0 until it begins."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._request_id = send, request_id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self._request_id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)
