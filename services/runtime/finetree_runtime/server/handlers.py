# SPDX-License-Identifier: Apache-2.0
"""Handlers: how they are hung into a server, what they are given, and how what they yield is sent."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from finetree_runtime.server import validation

if TYPE_CHECKING:  # grpc's classes are generic only in their type stubs
    Context = aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Surround = Callable[[Handler | None, str], Handler | None]
    """Makes, of a method's handler and its name, the one that is called."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def in_bytes(handler: _Function) -> _Function:
    """Mark a unary handler that takes its request as bytes, which it validates itself, and answers with bytes.

    So it may know an answer without reading the question. It may be a plain function, where it waits for nothing, or
    returns a future that is done within milliseconds.
    """
    handler.in_bytes = True  # type: ignore[attr-defined]  # functions take attributes
    return handler


def takes_bytes(handler: Callable[..., Any]) -> bool:
    """Whether a handler is one marked with `in_bytes`."""
    return bool(getattr(handler, "in_bytes", False))


class Registrar(Protocol):
    """What the code generated for a service hangs its handlers into: grpc.aio's server, as far as that needs it."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Take handlers that say themselves which methods they are for."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Take the handlers of a service by method."""


class SurroundingRegistrar:
    """Hands a server the handlers of services, each of which `surround` has made another of.

    Methods are not registered one by one: grpc.aio's server has a future for each registered method and goes through
    all of them at every call, which costs more than looking the method up.
    """

    def __init__(self, server: aio.Server, surround: Surround) -> None:
        self._server = server
        self._surround = surround

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Hand handlers on, surrounded."""
        self._server.add_generic_rpc_handlers([_Surrounded(each, self._surround) for each in generic_rpc_handlers])

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Leave it: they are among the generic handlers."""


class _Surrounded(grpc.GenericRpcHandler):
    """A service's handlers, surrounded."""

    def __init__(self, handlers: grpc.GenericRpcHandler, surround: Surround) -> None:
        self._handlers = handlers
        self._surround = surround

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method."""
        return self._surround(self._handlers.service(handler_call_details), str(handler_call_details.method))


class Undecodable:
    """Stands for a request that is not a message of its type, so that it fails where errors are mapped."""


class Checked:
    """The messages of a client's stream, each one validated as it is read."""

    def __init__(self, messages: AsyncIterator[Any]) -> None:
        self._messages = aiter(messages)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await anext(self._messages)
        check(message)
        return message


async def write_all(responses: Any, rpc: Context) -> None:
    """Send what a generator yields; a handler that is a coroutine writes by itself."""
    if inspect.isawaitable(responses):
        await responses
        return
    async with contextlib.aclosing(responses):
        async for message in responses:
            await rpc.write(message)


def inner_of(handler: Handler) -> Callable[..., Any]:
    """The function that a handler calls."""
    found = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert found is not None  # noqa: S101  # a handler has exactly one of the four
    return found


def lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Reads messages as `deserialize` does, and what is none as Undecodable: gRPC would answer INTERNAL."""
    return None if deserialize is None else functools.partial(attempt, deserialize)


def attempt(deserialize: Callable[[bytes], Any], raw: bytes) -> Any:
    """The message, or Undecodable."""
    try:
        return deserialize(raw)
    except DecodeError:
        return Undecodable()


def check(message: Any, raw: bytes | None = None) -> None:
    """Validate a message, whose bytes may be at hand. Raises InvalidArgument."""
    if isinstance(message, Undecodable):
        raise validation.undecodable()
    if isinstance(message, Message):
        validation.validate(message, raw=raw)
