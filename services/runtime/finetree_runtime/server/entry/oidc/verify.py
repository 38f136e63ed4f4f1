# SPDX-License-Identifier: Apache-2.0
"""What of a token is checked: signature, issuer, audience and times (RFC 7519, RFC 8725)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetree_runtime.errors import Unauthenticated
from finetree_runtime.server.access.table import is_name
from finetree_runtime.server.entry.credentials import token_invalid
from finetree_runtime.server.entry.oidc.keys import ALGORITHMS, IssuerKeys

LEEWAY_SECONDS = 30.0
"""How far the clocks of the issuer and of this machine may be apart."""
MAX_CHARACTERS = 8192
"""Longest token: beyond it gRPC itself refuses the metadata."""
MAX_GROUPS = 1000
"""Groups of a token that are looked at."""
FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
"""Three parts in base64url; the third is empty where nothing signs, which is refused."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token is of: the issuer's name of the subject, and the subject's groups."""

    subject: str
    groups: tuple[str, ...]


async def verify(token: str, keys: IssuerKeys, *, issuer: str, audience: str, groups_claim: str) -> Identity:
    """Check a token and return who it is of.

    Raises:
        Unauthenticated: TOKEN_INVALID, TOKEN_EXPIRED or TOKEN_NOT_YET_VALID. What a token claims is said only of one
            that the issuer has signed.
        Unavailable: ISSUER_UNAVAILABLE.
    """
    import jwt

    if len(token) > MAX_CHARACTERS:
        raise token_invalid("the token is too long")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise token_invalid("it is no JSON Web Token") from None
    if header.get("alg") not in ALGORITHMS:
        raise token_invalid(f"tokens must be signed with one of {', '.join(ALGORITHMS)}")
    key = await keys.key(str(header.get("kid", "")))
    if key.algorithm_name != header["alg"]:
        raise token_invalid("the token is signed in another way than its key is for")
    options: Any = {"require": ["exp", "iat", "iss", "aud", "sub"], "enforce_minimum_key_length": True}
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY_SECONDS,
            options=options,
        )
    except jwt.PyJWTError as error:
        raise _refusal(error) from None
    subject = claims["sub"]
    if not is_name(subject):
        raise token_invalid("its subject is no name of 1 to 256 printable characters without spaces")
    return Identity(subject, _groups(claims, groups_claim))


def _refusal(error: Exception) -> Unauthenticated:
    import jwt

    if isinstance(error, jwt.ExpiredSignatureError):
        return Unauthenticated("TOKEN_EXPIRED", "the token has expired: get another one of the issuer")
    if isinstance(error, jwt.ImmatureSignatureError):
        text = "the token is not valid yet: check the clocks of the issuer and of this server"
        return Unauthenticated("TOKEN_NOT_YET_VALID", text)
    if isinstance(error, jwt.InvalidAudienceError):
        return token_invalid("the token is for another audience than this server")
    if isinstance(error, jwt.InvalidIssuerError):
        return token_invalid("the token is of another issuer than this server trusts")
    if isinstance(error, jwt.MissingRequiredClaimError):
        return token_invalid(f"the token has no claim {error.claim}")
    return token_invalid("its signature or its claims are wrong")


def _groups(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    """Read the groups: a list, or one text or number; a claim inside of others is named with dots, a.b."""
    value: Any = claims.get(claim) if claim else None
    if value is None and claim:
        value = claims
        for part in claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    listed = value if isinstance(value, list) else [value]
    return tuple(
        str(each) for each in listed[:MAX_GROUPS] if isinstance(each, str | int) and not isinstance(each, bool)
    )
