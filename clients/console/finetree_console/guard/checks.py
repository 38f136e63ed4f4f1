# SPDX-License-Identifier: Apache-2.0
"""Who may send a request: which Host, which Origin, which token.

Against web pages that a browser on this machine shows: a page cannot read an answer without CORS, which there is none
of, but it could send requests (forms, `fetch` without reading), and with DNS rebinding it could read answers too: its
own name then leads here. Its Origin or the Host of its requests tell.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Iterable

from starlette.requests import HTTPConnection

from finetree_console.errors import HttpError, invalid

Check = Callable[[HTTPConnection], None]
"""Refuses a request by raising HttpError."""


MAX_HEADER_BYTES = 32 * 1024
"""Bytes of all headers of a request together; the server itself stops reading a head at several times as many."""


def check_head(request: HTTPConnection) -> None:
    """Refuse headers that are too large.

    Raises:
        HttpError: HEAD_TOO_LARGE.
    """
    if sum(len(name) + len(value) for name, value in request.headers.raw) > MAX_HEADER_BYTES:
        text = f"the headers have more than {MAX_HEADER_BYTES} bytes"
        raise HttpError(text, status=431, code="RESOURCE_EXHAUSTED", reason="HEAD_TOO_LARGE")


def host_check(allowed: Iterable[str]) -> Check:
    """Allow a Host header that is an IP address, "localhost" or one of these names: no foreign name leads here.

    The check raises HttpError: HOST_NOT_ALLOWED.
    """
    names = {"localhost", *(name.lower().rstrip(".") for name in allowed)}

    def check(request: HTTPConnection) -> None:
        name = _host_of(request.headers.get("host", ""))
        if name in names or _is_address(name):
            return
        text = f"this server is not known as {name!r}; start it with --allowed-host {name}"
        raise HttpError(text, status=421, code="PERMISSION_DENIED", reason="HOST_NOT_ALLOWED")

    return check


def check_origin(request: HTTPConnection) -> None:
    """Refuse what a web page of another origin sends.

    Raises:
        HttpError: ORIGIN_NOT_ALLOWED.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    if origin is not None:
        foreign = origin.partition("://")[2].lower() != request.headers.get("host", "").lower()
    else:
        # Without an Origin it can be a link that somebody followed, which shows the answer to them alone.
        foreign = site not in ("none", "same-origin") and request.headers.get("sec-fetch-mode") != "navigate"
    if foreign:
        text = "requests of web pages of another origin are refused; send it from this server's own page or a program"
        raise HttpError(text, status=403, code="PERMISSION_DENIED", reason="ORIGIN_NOT_ALLOWED")


def token_check(token: str) -> Check:
    """Ask every request for a bearer token.

    The check raises HttpError: TOKEN_REQUIRED.
    """
    expected = token.encode()

    def check(request: HTTPConnection) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), expected):
            text = "send the server's token: Authorization: Bearer TOKEN"
            raise HttpError(text, status=401, code="UNAUTHENTICATED", reason="TOKEN_REQUIRED")

    return check


def _host_of(header: str) -> str:
    """Name in a Host header, without its port."""
    name = header.partition("]")[0].removeprefix("[") if header.startswith("[") else header.partition(":")[0]
    if not name:
        raise invalid("[host]", "is missing")
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
