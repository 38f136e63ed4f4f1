# SPDX-License-Identifier: Apache-2.0
"""List calls that answer in pages (AIP-158)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from finetree._shared.rpcs import Rpc

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list call: the rpc, the request of its first page, and where a response has its items."""

    rpc: Rpc[Any, Any]
    request: Any
    items: Callable[[Any], Iterable[T]]

    def page(self, token: str) -> Any:
        """Build the request of the page that a token leads to."""
        request = type(self.request)()
        request.CopyFrom(self.request)
        request.page_token = token
        return request

    def read(self, response: Any) -> tuple[list[T], str]:
        """Return the items of a page, and the token of the next one, empty at the end."""
        return list(self.items(response)), response.next_page_token
