# SPDX-License-Identifier: Apache-2.0
"""Probes: whether the console lives, and whether the services behind it answer."""

from __future__ import annotations

import asyncio

import finetree
from finetree import FinetreeError
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
    """Answer 200 when all three services answer, else 503; of each its version, or the reason that it does not."""
    found = await asyncio.gather(*(_probe(request.app.state.client, name) for name in SERVICES))
    ready = all("version" in each for each in found) and not request.app.state.draining.is_set()
    document = {"status": "SERVING" if ready else "NOT_SERVING", "services": dict(zip(SERVICES, found, strict=True))}
    return Json(document, 200 if ready else 503)


async def _probe(client: finetree.AsyncClient, name: str) -> dict[str, str]:
    try:
        info = await client.server_info(name, timeout=PROBE_SECONDS)  # type: ignore[arg-type]  # one of SERVICES
    except FinetreeError as error:
        return {"reason": error.reason or error.code}
    return {"version": info.version}
