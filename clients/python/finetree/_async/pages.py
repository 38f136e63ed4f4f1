# SPDX-License-Identifier: Apache-2.0
"""Lists that fetch their next page when it is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Fetch = Callable[[str], Awaitable[tuple[list[T], str]]]


class AsyncPages(Generic[T]):
    """Items of a list call, page by page. Every page is fetched with the timeout that the list was asked with.

    It can be iterated again and then begins anew. `pages()` gives whole pages.
    """

    def __init__(self, fetch: Fetch[T]) -> None:
        self._fetch = fetch

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page:
                yield item

    async def pages(self) -> AsyncIterator[list[T]]:
        """Whole pages; an empty one is left out."""
        token = ""
        while True:
            items, token = await self._fetch(token)
            if items:
                yield items
            if not token:
                return
