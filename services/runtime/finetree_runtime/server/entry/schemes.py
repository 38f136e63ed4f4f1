# SPDX-License-Identifier: Apache-2.0
"""Identities that are made elsewhere: tokens of an OpenID Connect issuer, and certificates of clients.

What they may do stands in the access file, by their names; without a line there they may do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetree_runtime.errors import Unauthenticated
from finetree_runtime.server.access.file import AccessFile
from finetree_runtime.server.access.table import is_name, unite
from finetree_runtime.server.context import Principal
from finetree_runtime.server.entry.credentials import Peer, bearer, grant_missing
from finetree_runtime.server.entry.oidc.keys import IssuerKeys
from finetree_runtime.server.entry.oidc.verify import FORM, verify


class OidcScheme:
    """Recognises JSON Web Tokens of one issuer, for one audience."""

    def __init__(self, access: AccessFile, keys: IssuerKeys, *, issuer: str, audience: str, groups_claim: str) -> None:
        import jwt  # noqa: F401  # a tenth of a second, which no call is to wait for

        self._access, self._keys = access, keys
        self._issuer, self._audience, self._groups_claim = issuer, audience, groups_claim

    def claims(self, metadata: Mapping[str, str], peer: Peer) -> bool:  # noqa: ARG002 - the protocol's
        """Whether the call has a bearer token that looks like a JSON Web Token."""
        return FORM.fullmatch(bearer(metadata)) is not None

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: Peer) -> Principal:  # noqa: ARG002 - the protocol's
        """Return the principal "oidc:<subject>" of a token; its grants are those of the subject and of its groups.

        Raises:
            Unauthenticated: TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_NOT_YET_VALID.
            PermissionDenied: GRANT_MISSING.
            Unavailable: ISSUER_UNAVAILABLE, ACCESS_UNAVAILABLE.
        """
        who = await verify(
            bearer(metadata),
            self._keys,
            issuer=self._issuer,
            audience=self._audience,
            groups_claim=self._groups_claim,
        )
        own = self._access.grants_of("oidc-subject", [who.subject])
        granted = unite((own, self._access.grants_of("oidc-group", who.groups)))
        name = f"oidc:{who.subject}"
        if granted is None:
            lines = [("oidc-subject", who.subject), *(("oidc-group", group) for group in who.groups if is_name(group))]
            raise grant_missing(name, lines)
        return Principal(name, granted.project, granted.grants, kind="oidc")


class CertificateScheme:
    """Recognises the certificate that a client has shown; a token in the same call goes first."""

    def __init__(self, access: AccessFile) -> None:
        self._access = access

    def claims(self, metadata: Mapping[str, str], peer: Peer) -> bool:
        """Whether the connection has a client's certificate, and the call no other credentials."""
        return "x509_pem_cert" in peer.auth and "authorization" not in metadata

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: Peer) -> Principal:  # noqa: ARG002 - the protocol's
        """Return the principal "certificate:<name>".

        Raises:
            Unauthenticated: CERTIFICATE_UNNAMED.
            PermissionDenied: GRANT_MISSING.
            Unavailable: ACCESS_UNAVAILABLE.
        """
        subject = subject_of(peer)
        if not is_name(subject):
            text = (
                "the client's certificate names nobody: it needs a SPIFFE id, a DNS name or a common name of up to "
                "256 printable characters without spaces"
            )
            raise Unauthenticated("CERTIFICATE_UNNAMED", text)
        granted = self._access.grants_of("certificate", [subject])
        if granted is None:
            raise grant_missing(f"certificate:{subject}", [("certificate", subject)])
        return Principal(f"certificate:{subject}", granted.project, granted.grants, kind="certificate")


def subject_of(peer: Peer) -> str:
    """Name in a client's certificate: its SPIFFE id, else its first DNS name, else its common name; may be empty."""
    for key in ("peer_spiffe_id", "peer_dns", "x509_common_name"):
        for value in peer.auth.get(key, ()):
            if value:
                return value.decode("utf-8", "replace")
    return ""
