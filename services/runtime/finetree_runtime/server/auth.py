# SPDX-License-Identifier: Apache-2.0
"""Who calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from finetree_runtime.server.context import LOCAL, Principal


class Authenticator(Protocol):
    """Tells who a caller is."""

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: str) -> Principal:
        """The caller of a method ("/package.Service/Method").

        Args:
            method: Full name of the method, for scopes.
            metadata: Text entries of the call's metadata, keys in lower case.
            peer: The transport's word for where the call comes from, for example "ipv4:127.0.0.1:40000".

        Raises:
            Unauthenticated: Nobody we know.
            PermissionDenied: Known, and not allowed to call this method.
        """
        ...


class LocalAuthenticator:
    """Everybody is the local user: for loopback, and for networks where something else authenticates."""

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: str) -> Principal:  # noqa: ARG002
        """The local principal, whoever it is."""
        return LOCAL
