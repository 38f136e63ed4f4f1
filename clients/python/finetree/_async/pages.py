# SPDX-License-Identifier: Apache-2.0
"""Lists that fetch their next page when it is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic

from finetree._async.transport import AsyncTransport
from finetree._shared.listing import Listing, T


class AsyncPages(Generic[T]):
    """Items of a list call, fetched page by page, each with the timeout that the list was called with.

    Iterating again begins anew. `pages()` gives whole pages.
    """

    def __init__(self, transport: AsyncTransport, listing: Listing[T], timeout: float | None) -> None:
        self._transport, self._listing, self._timeout = transport, listing, timeout

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page:
                yield item

    async def pages(self) -> AsyncIterator[list[T]]:
        """Iterate over whole pages; empty ones are skipped."""
        token = ""
        while True:
            page = self._listing.page(token)
            items, token = self._listing.read(
                await self._transport.unary(self._listing.rpc, page, timeout=self._timeout)
            )
            if items:
                yield items
            if not token:
                return
