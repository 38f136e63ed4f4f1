# SPDX-License-Identifier: Apache-2.0
"""Lists that fetch their next page when it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic

from finetree._shared.listing import Listing, T
from finetree._sync.transport import Transport


class Pages(Generic[T]):
    """Items of a list call, fetched page by page, each with the timeout that the list was called with.

    Iterating again begins anew. `pages()` gives whole pages.
    """

    def __init__(self, transport: Transport, listing: Listing[T], timeout: float | None) -> None:
        self._transport, self._listing, self._timeout = transport, listing, timeout

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page

    def pages(self) -> Iterator[list[T]]:
        """Iterate over whole pages; empty ones are skipped."""
        token = ""
        while True:
            page = self._listing.page(token)
            items, token = self._listing.read(self._transport.unary(self._listing.rpc, page, timeout=self._timeout))
            if items:
                yield items
            if not token:
                return
