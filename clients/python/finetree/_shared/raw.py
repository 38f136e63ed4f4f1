# SPDX-License-Identifier: Apache-2.0
"""A channel whose calls carry the client's metadata: for stubs of the contract that a program uses by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finetree._shared import channels
from finetree.config.options import Options
from finetree.config.settings import Service

Entry = tuple[str, str | bytes]


class RawMethod:
    """A method of a stub, called as gRPC's own (`grpc` or `grpc.aio`); entries that the caller gives hold."""

    def __init__(self, method: Any, channel: RawChannel) -> None:
        self._method, self._channel = method, channel

    def __call__(self, request: Any, *, metadata: Iterable[Entry] | None = None, **options: Any) -> Any:
        """Call it with the channel's metadata, in which the given entries hold."""
        return self._method(request, metadata=self._channel.metadata(metadata), **options)

    def with_call(self, request: Any, *, metadata: Iterable[Entry] | None = None, **options: Any) -> Any:
        """Call it, and return the answer with the call, which has the metadata."""
        return self._method.with_call(request, metadata=self._channel.metadata(metadata), **options)

    def future(self, request: Any, *, metadata: Iterable[Entry] | None = None, **options: Any) -> Any:
        """Begin it."""
        return self._method.future(request, metadata=self._channel.metadata(metadata), **options)


class RawChannel:
    """A channel of `grpc` or `grpc.aio`, as far as stubs use one."""

    def __init__(self, channel: Any, options: Options, service: Service) -> None:
        self._channel, self._options, self._service = channel, options, service

    def metadata(self, given: Iterable[Entry] | None) -> tuple[Entry, ...]:
        """Build the metadata of a call."""
        entries = tuple(given or ())
        names = {name for name, _ in entries}
        token = channels.own_token(self._options, self._service) if "authorization" not in names else None
        ours = channels.metadata(channels.new_request_id(), token.value() if token is not None else "")
        return (*entries, *(entry for entry in ours if entry[0] not in names))

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> RawMethod:
        """Make a method of one request and one answer."""
        return RawMethod(self._channel.unary_unary(method, *arguments, **options), self)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> RawMethod:
        """Make a method of one request and a stream of answers."""
        return RawMethod(self._channel.unary_stream(method, *arguments, **options), self)

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> RawMethod:
        """Make a method of a stream of requests and one answer."""
        return RawMethod(self._channel.stream_unary(method, *arguments, **options), self)

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> RawMethod:
        """Make a method of a stream of requests and a stream of answers."""
        return RawMethod(self._channel.stream_stream(method, *arguments, **options), self)
