# SPDX-License-Identifier: Apache-2.0
"""What every rpc does with a request before it answers: names, page tokens, idempotency keys, errors of fields."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from finetree.errors import AlreadyExists, InvalidArgument, Unimplemented, Violation

T = TypeVar("T")
PROJECT = "default"
_SEGMENT = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


def invalid(field: str, text: str, reason: str = "INVALID_REQUEST", **metadata: str) -> InvalidArgument:
    """Make the error for a wrong field."""
    violation = Violation(field, text)
    return InvalidArgument(str(violation), reason=reason, violations=(violation,), metadata=metadata)


def not_promised(what: str) -> Unimplemented:
    """Make the error for what a fake cannot answer rightly."""
    text = f"the fake suite {what}; ask a real service, or state the answer in the test"
    return Unimplemented(text, reason="NOT_IN_FAKE_SUITE")


def full_name(text: str, collection: str, field: str = "name") -> str:
    """Write a name, or an id of the default project, in full.

    Raises:
        InvalidArgument: INVALID_NAME.
    """
    parts = text.split("/") if "/" in text else ["projects", PROJECT, collection, text]
    fits = len(parts) == 4 and parts[0] == "projects" and parts[2] == collection
    if not fits or not _SEGMENT.fullmatch(parts[1]) or not _SEGMENT.fullmatch(parts[3]):
        wanted = f'must be "projects/{{project}}/{collection}/{{id}}" or an id of a-z, 0-9, ".", "_" and "-"'
        raise invalid(field, wanted, "INVALID_NAME")
    return "/".join(parts)


def project_of(text: str, field: str = "parent") -> str:
    """Full name of the project of a request; empty text means the default one.

    Raises:
        InvalidArgument: INVALID_NAME.
    """
    if not text:
        return f"projects/{PROJECT}"
    prefix, _, name = text.partition("/")
    if prefix != "projects" or not _SEGMENT.fullmatch(name):
        raise invalid(field, 'must be "projects/{project}" or empty', "INVALID_NAME")
    return text


def artifact_name(text: str) -> tuple[str, str]:
    """Split the name of an artifact into its job's and its own.

    Raises:
        InvalidArgument: INVALID_NAME.
    """
    job, mark, own = text.rpartition("/artifacts/")
    if not mark or not _SEGMENT.fullmatch(own):
        wanted = 'must be "projects/{project}/jobs/{id}/artifacts/{id}"'
        raise invalid("name", wanted, "INVALID_NAME")
    return full_name(job, "jobs"), own


def body_hash(request: Message, *without: str) -> str:
    """SHA-256 of a request without the named fields."""
    body = type(request)()
    body.CopyFrom(request)
    for field in without:
        body.ClearField(field)
    return hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()


def page(
    items: Sequence[T], request: Any, *, key: Callable[[T], str], size: int = 50, scope: str = ""
) -> tuple[Sequence[T], str]:
    """Cut the page that a request asks for, and make the token of the next one.

    A token names the last item of its page, so that items that come or go move nothing, and the list with its filters.

    Raises:
        InvalidArgument: PAGE_TOKEN_INVALID.
    """
    listed = f"{type(request).__name__}/{scope}/{body_hash(request, 'page_token', 'page_size')}"
    count = request.page_size or size
    start = 0
    if request.page_token:
        last = _position(request.page_token, listed)
        start = next((index for index, each in enumerate(items, 1) if key(each) == last), len(items))
    shown = items[start : start + count]
    more = len(items) > start + count
    return shown, _token(listed, key(shown[-1])) if more else ""


def _token(listed: str, position: str) -> str:
    mark = hashlib.sha256(f"{listed}\0{position}".encode()).digest()[:12]
    return base64.urlsafe_b64encode(mark + position.encode()).decode().rstrip("=")


def _position(token: str, listed: str) -> str:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        position = raw[12:].decode()
    except ValueError:
        position = ""
    if _token(listed, position) != token:
        text = "is not a token of this list: start again with an empty one"
        raise invalid("page_token", text, "PAGE_TOKEN_INVALID")
    return position


class Answers:
    """Answers by idempotency key: the same key and request give the same one, for ever."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[str, str, Any]] = {}

    def find(self, project: str, request_id: str, rpc: str, body: str) -> Any:
        """What the same request has made before; None for a new one, or one without a key.

        Raises:
            AlreadyExists: REQUEST_ID_REUSED.
        """
        found = self._known.get((project, request_id)) if request_id else None
        if found is None:
            return None
        if found[:2] != (rpc, body):
            text = f"request_id {request_id!r} belongs to another request; take a new one."
            raise AlreadyExists(text, reason="REQUEST_ID_REUSED", metadata={"request_id": request_id})
        return found[2]

    def keep(self, project: str, request_id: str, rpc: str, body: str, made: Any) -> None:
        """Bind a key to what its request has made."""
        if request_id:
            self._known[project, request_id] = rpc, body, made

    def forget(self, made: Any) -> None:
        """Free the keys of requests that made something which is as if it had never been."""
        self._known = {key: value for key, value in self._known.items() if value[2] != made}
