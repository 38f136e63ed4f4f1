# SPDX-License-Identifier: Apache-2.0
"""Authentication: from a call's metadata to its principal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from finetree_runtime.server.context import LOCAL, Principal


class Authenticator(Protocol):
    """Finds the principal of a call."""

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: str) -> Principal:
        """Return the principal of a call.

        Args:
            method: Full name of the method ("/package.Service/Method"), for scopes.
            metadata: Text entries of the call's metadata, keys in lower case.
            peer: Where the call comes from, as gRPC names it, for example "ipv4:127.0.0.1:40000".

        Raises:
            Unauthenticated: The caller is unknown.
            PermissionDenied: The caller is known, and not allowed to call this method.
        """
        ...


class LocalAuthenticator:
    """Takes every caller as the local user: for loopback, and for networks where something else authenticates."""

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: str) -> Principal:  # noqa: ARG002
        """Return the local principal."""
        return LOCAL
