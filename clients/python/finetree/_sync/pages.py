# SPDX-License-Identifier: Apache-2.0
"""Lists that fetch their next page when it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic

from finetree._shared.listing import Listing, Page, Paging, T, check_limit
from finetree._shared.retry import within
from finetree._sync.transport import Transport


class Pages(Generic[T]):
    """Items of a list call, fetched page by page, each with the timeout that the list was called with.

    Iterating again begins anew. `pages()` gives whole pages, each with the token that continues behind it.
    """

    def __init__(
        self,
        transport: Transport,
        listing: Listing[T],
        timeout: float | None,
        *,
        limit: int | None = None,
        page_token: str = "",
        deadline: float | None = None,
    ) -> None:
        self._transport, self._listing, self._timeout = transport, listing, timeout
        self._limit, self._page_token, self._deadline = check_limit(limit), page_token, deadline

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page

    def pages(self) -> Iterator[Page[T]]:
        """Iterate over whole pages; empty ones are skipped."""
        paging = Paging(self._listing, limit=self._limit, page_token=self._page_token)
        rpc = self._listing.rpc
        while not paging.finished:
            timeout = within(self._deadline, self._timeout or self._transport.options.timeout or rpc.timeout)
            page = paging.read(self._transport.unary(rpc, paging.request(), timeout=timeout))
            if page:
                yield page
