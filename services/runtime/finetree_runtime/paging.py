# SPDX-License-Identifier: Apache-2.0
"""Page sizes and page tokens of List calls (AIP-158)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

from finetree_runtime.errors import invalid_field

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

_MAC_BYTES = 12  # 96 bits cannot be guessed, and a token stays short


def page_size(requested: int, *, default: int = DEFAULT_PAGE_SIZE, maximum: int = MAX_PAGE_SIZE) -> int:
    """Items of a page: 0 means the default, more than the maximum means the maximum.

    Raises:
        InvalidArgument: INVALID_REQUEST for a negative number.
    """
    if requested < 0:
        raise invalid_field("page_size", "must not be negative")
    return min(requested or default, maximum)


class PageTokens:
    """Issues and reads page tokens: positions in a list, signed, so that clients cannot make up their own.

    Args:
        key: The same for all replicas and over restarts, where tokens must survive these; empty means a random key.
    """

    def __init__(self, key: str = "") -> None:
        self._key = hashlib.sha256(key.encode()).digest() if key else secrets.token_bytes(32)

    def issue(self, scope: str, position: str) -> str:
        """Make a token of `position` in `scope`: the rpc and all that decides what is listed, and in what order."""
        payload = position.encode()
        return base64.urlsafe_b64encode(self._mac(scope, payload) + payload).decode().rstrip("=")

    def read(self, scope: str, token: str) -> str | None:
        """Return the position that a token was issued for; None for an empty token, which means the first page.

        Raises:
            InvalidArgument: PAGE_TOKEN_INVALID where the token was not issued here, or for another scope.
        """
        if not token:
            return None
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(scope, payload)):
            text = "is not a token of this list: start again with an empty one"
            raise invalid_field("page_token", text, "PAGE_TOKEN_INVALID")
        return payload.decode()

    def _mac(self, scope: str, payload: bytes) -> bytes:
        return hmac.digest(self._key, scope.encode() + b"\0" + payload, "sha256")[:_MAC_BYTES]
