# SPDX-License-Identifier: Apache-2.0
"""The keys of an issuer, kept between calls: read again with age and for unknown ids, and used while it is away.

No call waits for the issuer but those whose key is not known. Asking is bounded whatever callers send: once in
`UNKNOWN_SECONDS` for ids that the issuer does not have, once in `RETRY_SECONDS` while there are no keys at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finetree_runtime.errors import Unauthenticated, Unavailable
from finetree_runtime.server.entry.credentials import token_invalid
from finetree_runtime.server.entry.oidc.fetch import FetchError
from finetree_runtime.server.logging import get_logger

if TYPE_CHECKING:
    from jwt import PyJWK

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""Signatures that are taken. All need the issuer's private key; a shared secret (HS256) or none never does."""
REFRESH_SECONDS = 300.0
"""Age from which on the keys are read again, beside the call: a key that the issuer withdraws is refused then."""
UNKNOWN_SECONDS = 30.0
"""Least time between two questions for an unknown key id."""
RETRY_SECONDS = 5.0
"""Least time between two questions while there are no keys."""
STALE_SECONDS = 24 * 3600.0
"""Longest time that keys are used while the issuer does not answer."""
MAX_WAITING = 100
"""Calls that wait for the issuer at once; further ones are told to come again."""
RSA_BITS = range(2048, 8193)
"""Sizes of RSA keys that are used: smaller ones are weak, larger ones cost every call."""


class IssuerKeys:
    """Keys of one issuer by their ids.

    Args:
        fetch: Gets the keys as JSON objects (RFC 7517), or raises FetchError; called in a thread.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, fetch: Callable[[], list[Any]], clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._keys: dict[str, PyJWK] = {}
        self._read_at = self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._waiting = 0

    async def key(self, key_id: str) -> PyJWK:
        """Return the key of an id; an empty id stands for the only key of an issuer that gives it none.

        Raises:
            Unauthenticated: TOKEN_INVALID: the issuer has no such key.
            Unavailable: ISSUER_UNAVAILABLE: it was not reached for too long.
        """
        now = self._clock()
        usable = now - self._read_at < STALE_SECONDS
        found = self._keys.get(key_id) if usable else None
        if found is not None:
            if now - self._read_at >= REFRESH_SECONDS and now - self._asked_at >= UNKNOWN_SECONDS:
                self.begin_refresh()
            return found
        if self._asking is not None or now - self._asked_at >= (UNKNOWN_SECONDS if usable else RETRY_SECONDS):
            await self._refreshed()
        if self._clock() - self._read_at >= STALE_SECONDS:
            raise away()
        if key_id in self._keys:
            return self._keys[key_id]
        raise unknown_key()

    def begin_refresh(self) -> None:
        """Begin to read the keys, beside everything else; not more than once at a time."""
        if self._asking is None:
            self._asked_at = self._clock()
            self._asking = asyncio.get_running_loop().create_task(self._refresh())

    async def _refreshed(self) -> None:
        if self._waiting >= MAX_WAITING:
            raise away()
        self.begin_refresh()
        assert self._asking is not None  # noqa: S101  # begun above
        self._waiting += 1
        try:
            await asyncio.shield(self._asking)  # a caller who goes away takes nothing from the others
        finally:
            self._waiting -= 1

    async def _refresh(self) -> None:
        try:
            self._keys = await asyncio.to_thread(lambda: _usable(self._fetch()))
        except FetchError as error:
            kept = {"keys_age_seconds": round(self._clock() - self._read_at)} if self._keys else {}
            get_logger().warning("oidc_issuer_unavailable", problem=str(error), **kept)
        except Exception as error:  # noqa: BLE001  # nothing that an issuer sends ends the service
            get_logger().error("oidc_issuer_unavailable", exc_info=error)
        else:
            self._read_at = self._clock()
            get_logger().info("oidc_keys_read", key_ids=sorted(self._keys))
        finally:
            self._asking = None


def away() -> Unavailable:
    """Build the error for a token that cannot be judged."""
    text = "this server cannot reach the issuer of the token to judge it: try again after the time in RetryInfo"
    return Unavailable("ISSUER_UNAVAILABLE", text, retry_delay=RETRY_SECONDS)


def unknown_key() -> Unauthenticated:
    """Build the error for a token that names a key of nobody."""
    return token_invalid("the issuer has no key with the id in the token")


def _usable(fetched: list[Any]) -> dict[str, PyJWK]:
    """Take the keys that verify one of ALGORITHMS; a single one without an id is of the empty id too."""
    found: dict[str, PyJWK] = {}
    for described in fetched:
        key = _key(described)
        if key is not None:
            found.setdefault(str(described.get("kid", "")), key)
    if len(found) == 1:
        found.setdefault("", next(iter(found.values())))
    return found


def _key(described: Any) -> PyJWK | None:
    import jwt
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if not isinstance(described, dict) or described.get("use", "sig") != "sig" or described.get("kty") == "oct":
        return None
    try:
        key = jwt.PyJWK(described)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if key.algorithm_name not in ALGORITHMS:
        return None
    public = key.key
    return None if isinstance(public, RSAPublicKey) and public.key_size not in RSA_BITS else key
