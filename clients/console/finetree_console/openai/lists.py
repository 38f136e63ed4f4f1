# SPDX-License-Identifier: Apache-2.0
"""Lists in OpenAI's shape: the `limit` of a request, and pages that begin after an id."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from finetree_console.errors import Json
from finetree_console.openai.errors import refusal

T = TypeVar("T")


def limit_of(request: Request, *, default: int, most: int) -> int:
    """Number of items that a request asks for.

    Raises:
        RefusedError: INVALID_REQUEST.
    """
    text = request.query_params.get("limit", str(default))
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= most):
        raise refusal("limit", f"limit must be a whole number from 1 to {most}, got {text!r}")
    return int(text)


def page(items: Sequence[dict[str, Any]], *, more: bool) -> Json:
    """Make the response of one page."""
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return Json({"object": "list", "data": list(items), "first_id": first, "last_id": last, "has_more": more})


async def select(items: AsyncIterable[T], key: Callable[[T], str], last: str, limit: int) -> tuple[list[T], bool]:
    """Take at most `limit` items behind the one with the key `last` ("": from the first), and whether more follow.

    Raises:
        RefusedError: CURSOR_INVALID: there is no such item.
    """
    found: list[T] = []
    waiting = bool(last)
    async for item in items:
        if waiting:
            waiting = key(item) != last
        elif len(found) == limit:
            return found, True
        else:
            found.append(item)
    if waiting:
        raise refusal("after", f"{last!r} is not an id of this list", "CURSOR_INVALID")
    return found, False
