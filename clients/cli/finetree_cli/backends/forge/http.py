# SPDX-License-Identifier: Apache-2.0
"""JSON over HTTPS with a token: nothing is sent anywhere but to the address that was given.

urllib, because a request or three in a pipeline are not worth a dependency. Redirects are refused: they would carry
the token to another host.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode, urlsplit

from finetree_cli.errors import BadInput, NotAvailable

TIMEOUT = 30.0
"""Seconds to wait for an answer."""
TRIES = 4
MAX_WAIT = 60.0
"""Longest time in seconds that a server's Retry-After is waited for."""
MAX_ANSWER_BYTES = 32 << 20
PAGE = 100
"""Comments on a page: the most that both sites give."""
LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))
"""Hosts that may be asked without TLS."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer."""

    document: Any
    """Parsed JSON; None where there is no body."""
    headers: Mapping[str, str]
    """By name in small letters."""


class Refused(NotAvailable):
    """The site answers with an error; `status` is its code, 0 for no answer."""

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message, reason="COMMENT_REFUSED")
        self.status = status
        self.retry_after = retry_after
        """Seconds after which the site wants to be asked again; None where it does not say."""


@dataclass(frozen=True, slots=True)
class Site:
    """The API of a site.

    Attributes:
        url: where its paths begin, without a slash at the end.
        headers: sent with every request; they carry the token and are never shown.
        sleep: waits before a request is sent again.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise BadInput("the address of the API must begin with https://", reason="COMMENT_ADDRESS_INVALID")

    def ask(self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None) -> Answer:
        """Send a request and read the answer; what may be sent twice is sent again where the site is busy.

        Raises:
            Refused: The site refuses, or gives no answer in time.
        """
        last = Refused("no answer", status=0)
        for number in range(TRIES):
            try:
                return self._once(method, path, query, body)
            except Refused as error:
                last = error
                # Nobody knows whether a comment was made where the answer to a POST is lost.
                again = error.status == 429 or (method != "POST" and (error.status == 0 or error.status >= 500))
                wait = error.retry_after if error.retry_after is not None else float(1 << number)
                if not again or wait > MAX_WAIT or number + 1 == TRIES:
                    break
                self.sleep(wait)
        raise last

    def pages(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[Any]:
        """Yield the items of a list page by page."""
        number = 1
        while True:
            given = {**(query or {}), "per_page": str(PAGE), "page": str(number)}
            answer = self.ask("GET", path, query=given)
            yield from answer.document or []
            if 'rel="next"' not in answer.headers.get("link", ""):
                return
            number += 1

    def _once(self, method: str, path: str, query: Mapping[str, str] | None, body: Any) -> Answer:
        url = f"{self.url}{path}{f'?{urlencode(query)}' if query else ''}"
        data = None if body is None else json.dumps(body).encode()
        headers = {**self.headers, "User-Agent": "finetree", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - https, or loopback
        try:
            with opener().open(request, timeout=TIMEOUT) as response:
                raw = response.read(MAX_ANSWER_BYTES)
                found = {name.lower(): value for name, value in response.headers.items()}
            return Answer(json.loads(raw) if raw.strip() else None, found)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error, method, path) from None
        except (OSError, HTTPException, ValueError) as error:
            raise Refused(f"{urlsplit(self.url).hostname}: {type(error).__name__}", status=0) from None


def _refused(error: urllib.error.HTTPError, method: str, path: str) -> Refused:
    status = error.code
    if status == 403 and (error.headers.get("retry-after") or error.headers.get("x-ratelimit-remaining") == "0"):
        status = 429  # GitHub says so when too many requests come
    wait = error.headers.get("retry-after") or ""
    said = f"{method} {path}: {error.code} {error.reason}"
    return Refused(said, status=status, retry_after=float(wait) if wait.isdecimal() else None)


def opener() -> urllib.request.OpenerDirector:
    """Return what sends requests, by the environment's proxy, and follows no redirect."""
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        made.add_handler(handler)
    return made
