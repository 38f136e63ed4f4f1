# SPDX-License-Identifier: Apache-2.0
"""Probes: whether the console lives, and whether the services behind it answer."""

from __future__ import annotations

import asyncio

import finetree
from finetree import FinetreeError
from finetree.errors import Unauthenticated
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from finetree_console.errors import Json

LIVE, READY = "/healthz", "/readyz"
PATHS = (LIVE, READY)
PROBE_SECONDS = 2.0
"""Time that a service has to answer."""
SERVICES = ("recommender", "estimator", "trainer")


def routes() -> list[Route]:
    """Routes of the probes."""
    return [Route(LIVE, _live, methods=["GET"]), Route(READY, _ready, methods=["GET"])]


async def _live(_: Request) -> Response:
    return Json({"status": "SERVING", "version": finetree.__version__})


async def _ready(request: Request) -> Response:
    """Answer 200 when all three services answer, else 503; of each its version, or the reason that it tells none."""
    found = await asyncio.gather(*(_probe(request.app.state.client, name) for name in SERVICES))
    ready = all(answers for answers, _ in found) and not request.app.state.draining.is_set()
    services = {name: said for name, (_, said) in zip(SERVICES, found, strict=True)}
    return Json({"status": "SERVING" if ready else "NOT_SERVING", "services": services}, 200 if ready else 503)


async def _probe(client: finetree.AsyncClient, name: str) -> tuple[bool, dict[str, str]]:
    """Return whether a service answers, and what it says. One that asks the console for a token does answer."""
    try:
        info = await client.server_info(name, timeout=PROBE_SECONDS)  # type: ignore[arg-type]  # one of SERVICES
    except FinetreeError as error:
        return isinstance(error, Unauthenticated), {"reason": error.reason or error.code}
    return True, {"version": info.version}
