# SPDX-License-Identifier: Apache-2.0
"""The route of the document."""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PATH = "/openapi.json"


def routes() -> list[Route]:
    """The route of the document."""
    return [Route(PATH, _document, methods=["GET"])]


async def _document(_: Request) -> Response:
    content = resources.files("finetree_console.openapi").joinpath("openapi.json").read_bytes()
    return Response(content, media_type="application/json")
