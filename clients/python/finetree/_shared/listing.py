# SPDX-License-Identifier: Apache-2.0
"""List calls that answer in pages (AIP-158)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from finetree._shared.rpcs import Rpc
from finetree.errors import InvalidArgument, Violation

T = TypeVar("T")
LIMITED_PAGE = 100
"""Largest page that a limited list asks for where the caller leaves the size open; every list call serves it."""


class Page(list[T]):
    """Items of a page.

    Attributes:
        next_page_token: continues the list behind this page, in this process or another; empty after the last one.
    """

    def __init__(self, items: Iterable[T], next_page_token: str) -> None:
        super().__init__(items)
        self.next_page_token = next_page_token


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list call: the rpc, the request of its first page, and where a response has its items."""

    rpc: Rpc[Any, Any]
    request: Any
    items: Callable[[Any], Iterable[T]]


class Paging(Generic[T]):
    """One pass over a list: what to request next, and when it is over.

    Args:
        listing: the list call.
        limit: items in all, None for every one.
        page_token: where to begin; empty for the beginning.
    """

    def __init__(self, listing: Listing[T], *, limit: int | None, page_token: str) -> None:
        self._listing, self._left, self._token = listing, limit, page_token
        self.finished = limit == 0

    def request(self) -> Any:
        """Build the request of the next page. It never asks for more than is left, so that its token ends there."""
        request = type(self._listing.request)()
        request.CopyFrom(self._listing.request)
        request.page_token = self._token
        if self._left is not None:
            request.page_size = min(request.page_size or LIMITED_PAGE, self._left)
        return request

    def read(self, response: Any) -> Page[T]:
        """Read a page."""
        page = Page(self._listing.items(response), response.next_page_token)
        self._token = page.next_page_token
        if self._left is not None:
            del page[self._left :]
            self._left -= len(page)
        self.finished = not self._token or self._left == 0
        return page


def check_limit(limit: int | None) -> int | None:
    """Refuse a negative limit.

    Raises:
        InvalidArgument: INVALID_REQUEST.
    """
    if limit is not None and limit < 0:
        text = f"must be 0 or more items, got {limit}"
        raise InvalidArgument(f"limit: {text}", reason="INVALID_REQUEST", violations=(Violation("limit", text),))
    return limit
