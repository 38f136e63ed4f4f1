# SPDX-License-Identifier: Apache-2.0
"""Authentication: from a call's metadata to its principal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from finetree_runtime.server.context import LOCAL, Principal


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection.

    Attributes:
        address: As gRPC names it, for example "ipv4:127.0.0.1:40000".
        auth: What TLS proved, `ServicerContext.auth_context()`: empty without a client certificate.
    """

    address: str
    auth: Mapping[str, Iterable[bytes]] = field(default_factory=dict)


class Authenticator(Protocol):
    """Finds the principal of a call."""

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: Peer) -> Principal:
        """Return the principal of a call.

        Args:
            method: Full name of the method ("/package.Service/Method").
            metadata: Text entries of the call's metadata, keys in lower case.
            peer: Where the call comes from.

        Raises:
            Unauthenticated: The caller is unknown.
        """
        ...


class LocalAuthenticator:
    """Takes every caller as the local user: for loopback, and for networks where something else authenticates."""

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: Peer) -> Principal:  # noqa: ARG002
        """Return the local principal."""
        return LOCAL
