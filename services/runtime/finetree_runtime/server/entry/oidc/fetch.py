# SPDX-License-Identifier: Apache-2.0
"""HTTP to an issuer: GET of a JSON document from its own host, bounded in size and time, without redirects."""

from __future__ import annotations

import ipaddress
import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

MAX_BYTES = 512 * 1024
"""Largest document: a thousand keys."""
STEP_SECONDS = 3.0
"""Longest wait for a connection or for bytes."""
TOTAL_SECONDS = 5.0
"""Longest time of a document; what comes slower is given up."""
DISCOVERY = "/.well-known/openid-configuration"


class FetchError(Exception):
    """A document is not to be had. The message is for the operator's log."""


def is_allowed(url: str) -> bool:
    """Whether a URL may be fetched from: https, or http of this machine, without a user, a query or a fragment."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))


def same_host(url: str, issuer: str) -> bool:
    """Whether a URL is of the issuer's own scheme, host and port."""
    one, other = urlsplit(url), urlsplit(issuer)
    return (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)


def fetch_keys(issuer: str, jwks_uri: str) -> list[Any]:
    """Get the keys of an issuer; an empty `jwks_uri` means that the issuer is asked where they are. Blocks.

    Raises:
        FetchError: it is away, or what it says cannot be used.
    """
    if not jwks_uri:
        described = _get(issuer.rstrip("/") + DISCOVERY)
        if described.get("issuer") != issuer:
            raise FetchError(f"the issuer says that it is {str(described.get('issuer'))[:200]!r}, not --oidc-issuer")
        jwks_uri = str(described.get("jwks_uri"))
        if not is_allowed(jwks_uri) or not same_host(jwks_uri, issuer):
            raise FetchError(f"its keys are at another place, {jwks_uri[:200]!r}: name it with --oidc-jwks-uri")
    keys = _get(jwks_uri).get("keys")
    if not isinstance(keys, list):
        raise FetchError("its keys are no list")
    return keys


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the answer 3xx is then an error."""


def _get(url: str) -> dict[str, Any]:
    # A proxy of the environment is for other machines.
    local = _is_loopback(urlsplit(url).hostname or "")
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    opener = urllib.request.build_opener(*handlers, *([urllib.request.ProxyHandler({})] if local else []))
    request = urllib.request.Request(url, headers={"accept": "application/json"})  # noqa: S310  # `is_allowed` has seen it
    try:
        with opener.open(request, timeout=STEP_SECONDS) as answer:
            content = json.loads(_read(answer))
    except urllib.error.HTTPError as error:
        raise FetchError(f"it answered HTTP {error.code}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, no HTTP
        raise FetchError(f"{type(error).__name__}: {error}") from None
    if not isinstance(content, dict):
        raise FetchError("it answered something else than a JSON object")
    return content


def _read(answer: Any) -> bytes:
    """Read a body to its end. A body that comes byte by byte, each in time, ends after TOTAL_SECONDS all the same."""
    end, content = time.monotonic() + TOTAL_SECONDS, b""
    while piece := answer.read1(64 * 1024):
        content += piece
        if len(content) > MAX_BYTES:
            raise FetchError(f"it answered more than {MAX_BYTES} bytes")
        if time.monotonic() > end:
            raise FetchError(f"its answer took more than {TOTAL_SECONDS:g} s")
    return content


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
