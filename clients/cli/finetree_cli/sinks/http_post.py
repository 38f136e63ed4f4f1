# SPDX-License-Identifier: Apache-2.0
"""One HTTP request to a target: no redirects, bounded in time and size, and its failures told apart."""

import email.utils
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from finetree_cli.backends.forge.http import opener
from finetree_cli.sinks.delivery import RefusedError, UnreachableError

SECONDS = 20.0
"""Longest time until an answer."""
_MOST = 16 << 20
"""Bytes of an answer that are read."""
_TEXT = 300
"""Characters of an answer that a message quotes."""
_BUSY = frozenset((408, 425, 429))
"""Refusals that end by themselves (RFC 9110, RFC 6585, RFC 8470)."""
_KEYS = frozenset((401, 403, 407))
"""Refusals of whoever sends: every job would get the same."""


def send(url: str, body: bytes | None, headers: Mapping[str, str], *, method: str = "POST") -> bytes:
    """Send a request and return the body of its answer, which had a status of 200 to 299.

    Raises:
        UnreachableError: No answer; one of a server in trouble (5xx) or busy; one that refuses the key.
        RefusedError: Any other answer.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers), method=method)  # noqa: S310 - https or loopback: config
    try:
        with opener().open(request, timeout=SECONDS) as answer:
            return bytes(answer.read(_MOST))
    except urllib.error.HTTPError as error:
        with error:
            text = f"answered {error.code}{_quoted(error)}"
            if error.code >= 500 or error.code in _BUSY or error.code in _KEYS:
                raise UnreachableError(text, seconds=_asked(error.headers.get("Retry-After", ""))) from error
            raise RefusedError(text) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(f"does not answer: {getattr(reason, 'strerror', None) or reason}") from error


def send_json(url: str, document: Mapping[str, Any] | None, headers: Mapping[str, str], *, method: str = "POST") -> Any:
    """Send JSON and return the JSON of the answer.

    Raises:
        UnreachableError: As `send`; also an answer that is no JSON: something else answers at this address.
        RefusedError: As `send`.
    """
    body = None if document is None else json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    answer = send(url, body, {"Content-Type": "application/json", **headers}, method=method)
    try:
        return json.loads(answer)
    except ValueError as error:
        raise UnreachableError("answered with something that is not JSON: is the address right?") from error


def _quoted(error: urllib.error.HTTPError) -> str:
    """The beginning of an answer's text, for a message."""
    try:
        text = error.read(_TEXT * 4).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return ""
    line = " ".join(text.split())
    return f": {line[:_TEXT]}" if line else ""


def _asked(text: str) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 where it is neither."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()) if text else 0.0
    except ValueError:
        return 0.0
