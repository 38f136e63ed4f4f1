# SPDX-License-Identifier: Apache-2.0
"""Requests as they come in: parsed without an exception, validated, and asked which projects they are about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from finetree_runtime.errors import DomainError, InvalidArgument, ResourceExhausted
from finetree_runtime.server import validation
from finetree_runtime.server.access.requirement import Requirement


@dataclass(frozen=True, slots=True)
class Rejected:
    """Stands for a request that was not parsed, so that its error is raised where errors are mapped."""

    error: DomainError


class CheckedStream:
    """The messages of a client's stream, each one validated as it is read.

    With the first one `let_in` is asked again, which then knows what the call is about, and `begin` is told.
    """

    def __init__(
        self,
        messages: AsyncIterator[Any],
        let_in: Callable[[], Awaitable[None]],
        begin: Callable[[], Awaitable[None]],
    ) -> None:
        self._messages, self._let_in, self._begin = messages, let_in, begin
        self.first: Any = None
        """The message that names what the call is about; None until it is read."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await anext(self._messages)
        if self.first is None:
            self.first = message
            await self._let_in()
            check(message)
            await self._begin()
            return message
        check(message)
        return message


def lenient(deserialize: Callable[[bytes], Any], limit: int | None) -> Callable[[bytes], Any]:
    """Return a deserializer that gives a Rejected in place of an exception, which gRPC would answer with INTERNAL.

    Parsing a request takes the loop up to 60 ms a megabyte (a map of short keys), hence `limit`, its largest size in
    bytes; the limit of the channel has to let pieces of an upload through.
    """

    def attempt(raw: bytes) -> Any:
        if limit is not None and len(raw) > limit:
            text = f"the request has {len(raw)} bytes, and this server takes {limit}: send less in one request"
            return Rejected(ResourceExhausted("REQUEST_TOO_LARGE", text, metadata={"limit_bytes": str(limit)}))
        try:
            return deserialize(raw)
        except DecodeError:
            text = "the request is not a message of its type: check the client's stubs"
            return Rejected(InvalidArgument("MALFORMED_REQUEST", text))

    return attempt


def check(message: Any) -> None:
    """Validate a message of a client. Raises DomainError."""
    if isinstance(message, Rejected):
        raise message.error
    validation.validate(message)


def named_in(request: Any) -> Any:
    """Return the message with the names of a call; None where it is not read yet, or is no message."""
    message = request.first if isinstance(request, CheckedStream) else request
    return None if isinstance(message, Rejected) else message


def projects_of(needed: Requirement | None, named: Any, own: str) -> set[str]:
    """Projects that a call counts for; none for a client's stream, whose names are not read yet.

    `own` is the project of its principal.
    """
    return needed.projects(named, own) if needed is not None and named is not None else set()
