# SPDX-License-Identifier: Apache-2.0
"""Authentication: from a call's metadata and connection to its principal.

A service has one authenticator: `LocalAuthenticator` where nothing says who is who, else a `Chain` of schemes, each of
which knows its own credentials. The first one that claims a call decides; a call that none claims is refused.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from finetree_runtime.config.settings import ServiceSettings, SettingsError
from finetree_runtime.errors import Unauthenticated
from finetree_runtime.server.access.file import NAME, AccessFile
from finetree_runtime.server.access.token import PREFIX, is_token, token_hash
from finetree_runtime.server.context import LOCAL, Principal
from finetree_runtime.server.entry.credentials import Peer, bearer, token_invalid
from finetree_runtime.server.entry.oidc.fetch import fetch_keys, is_allowed
from finetree_runtime.server.entry.oidc.keys import IssuerKeys
from finetree_runtime.server.entry.schemes import CertificateScheme, OidcScheme


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

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: Peer) -> Principal:  # noqa: ARG002 - the protocol's
        """Return the local principal."""
        return LOCAL


class Scheme(Authenticator, Protocol):
    """One way to be recognised."""

    def claims(self, metadata: Mapping[str, str], peer: Peer) -> bool:
        """Whether a call has credentials of this scheme, right or wrong."""
        ...


class Chain:
    """Asks the schemes in order."""

    def __init__(self, schemes: Sequence[Scheme]) -> None:
        self._schemes = tuple(schemes)

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: Peer) -> Principal:
        """Return what the first scheme that claims the call says.

        Raises Unauthenticated: TOKEN_MISSING without credentials, TOKEN_INVALID with some that no scheme knows.
        """
        for scheme in self._schemes:
            if scheme.claims(metadata, peer):
                return await scheme.authenticate(method, metadata, peer)
        if metadata.get("authorization"):
            raise token_invalid()
        text = "this server answers callers with a token alone: send one as the metadata `authorization: Bearer TOKEN`"
        raise Unauthenticated("TOKEN_MISSING", text)


class TokenScheme:
    """Recognises the tokens of an access file."""

    def __init__(self, access: AccessFile) -> None:
        self._access = access

    def claims(self, metadata: Mapping[str, str], peer: Peer) -> bool:  # noqa: ARG002 - the protocol's
        """Whether the call has a bearer token with the prefix of ours."""
        return bearer(metadata).startswith(PREFIX)

    async def authenticate(self, method: str, metadata: Mapping[str, str], peer: Peer) -> Principal:  # noqa: ARG002 - the protocol's
        """Return the principal of a token.

        Raises:
            Unauthenticated: TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_REVOKED.
            Unavailable: ACCESS_UNAVAILABLE.
        """
        text = bearer(metadata)
        if not is_token(text):
            raise token_invalid()
        row = self._access.token(token_hash(text))
        if row is None:
            raise token_invalid()
        state = row.state(dt.datetime.now(dt.UTC))
        if state == "revoked":
            raise Unauthenticated(
                "TOKEN_REVOKED", f"the token {row.id} is revoked: ask who runs this service for another"
            )
        if state == "expired":
            raise Unauthenticated(
                "TOKEN_EXPIRED", f"the token {row.id} has expired: ask who runs this service for another"
            )
        granted = row.granted
        return Principal(
            row.principal, granted.project, granted.grants, kind="token", credential=row.id, expire_time=row.expire_time
        )


def authenticator_of(settings: ServiceSettings) -> Authenticator:
    """Make the authenticator that a service is set to. Called in the service's event loop.

    Raises:
        SettingsError: ACCESS_FILE_UNUSABLE: a service that nobody could call does not start. ACCESS_FILE_MISSING,
            OIDC_INCOMPLETE, SETTING_INVALID: something that makes callers known lacks its other half.
    """
    require_halves(settings)
    if settings.access_dir is None:
        return LocalAuthenticator()
    access = AccessFile(settings.access_dir)
    if access.problem:
        text = f"--access-dir: its {NAME}: {access.problem}; `finetree tokens create` makes one"
        raise SettingsError("ACCESS_FILE_UNUSABLE", text)
    schemes: list[Scheme] = [TokenScheme(access)]
    if settings.oidc_issuer:
        keys = IssuerKeys(partial(fetch_keys, settings.oidc_issuer, settings.oidc_jwks_uri))
        keys.begin_refresh()  # so that an issuer that is not to be had is in the log before anybody calls
        trusted = {"issuer": settings.oidc_issuer, "audience": settings.oidc_audience}
        schemes.append(OidcScheme(access, keys, groups_claim=settings.oidc_groups_claim, **trusted))
    if settings.tls_client_ca is not None:
        schemes.append(CertificateScheme(access))
    return Chain(schemes)


def require_halves(settings: ServiceSettings) -> None:
    """Refuse settings of which one is no use without another. Raises SettingsError."""
    if settings.oidc_issuer and not is_allowed(settings.oidc_issuer):
        text = "--oidc-issuer must be https://…, or http:// of this machine, without a query"
        raise SettingsError("SETTING_INVALID", text)
    if settings.oidc_jwks_uri and not is_allowed(settings.oidc_jwks_uri):
        text = "--oidc-jwks-uri must be https://…, or http:// of this machine, without a query"
        raise SettingsError("SETTING_INVALID", text)
    if bool(settings.oidc_issuer) != bool(settings.oidc_audience):
        text = "--oidc-issuer and --oidc-audience go together: a token for another service must not open this one"
        raise SettingsError("OIDC_INCOMPLETE", text)
    makes_known = "--oidc-issuer" if settings.oidc_issuer else "--tls-client-ca" if settings.tls_client_ca else ""
    if makes_known and settings.access_dir is None:
        text = (
            f"{makes_known} says who calls, and --access-dir what each of them may do: give it too "
            "(`finetree tokens grant` writes it)"
        )
        raise SettingsError("ACCESS_FILE_MISSING", text)
