# SPDX-License-Identifier: Apache-2.0
"""What a call brings to be known by: its connection and its metadata, and the errors for what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from finetree_runtime.errors import PermissionDenied, Unauthenticated


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection.

    Attributes:
        address: As gRPC names it, for example "ipv4:127.0.0.1:40000".
        auth: What TLS proved, `ServicerContext.auth_context()`: empty without a client certificate.
    """

    address: str
    auth: Mapping[str, Iterable[bytes]] = field(default_factory=dict)


def bearer(metadata: Mapping[str, str]) -> str:
    """Return the bearer token of a call; empty without one."""
    scheme, _, text = metadata.get("authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def token_invalid(why: str = "") -> Unauthenticated:
    """Build the error for credentials that nobody was given; `why` is said of a token that somebody else has made."""
    if why:
        return Unauthenticated("TOKEN_INVALID", f"the token is refused: {why}")
    text = "the credentials are none that this server knows: check the token, and that it is of this installation"
    return Unauthenticated("TOKEN_INVALID", text)


def grant_missing(principal: str, lines: Sequence[tuple[str, str]]) -> PermissionDenied:
    """Build the error for a caller who is known, and was granted nothing; `lines` are kinds and names that would help.

    The names are the caller's own, which its token or certificate carries.
    """
    kind, name = lines[0]
    others = f" (or for its group {', '.join(group for _, group in lines[1:6])})" if lines[1:] else ""
    text = (
        f"{principal} is known and was granted nothing: whoever runs this service writes it a line with "
        f"`finetree tokens grant {kind} {name} --project … --role …`{others}"
    )
    return PermissionDenied("GRANT_MISSING", text, metadata={"kind": kind, "name": name})
