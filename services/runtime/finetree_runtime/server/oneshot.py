# SPDX-License-Identifier: Apache-2.0
"""One-shot programs: requests on stdin, replies on stdout, by the methods that the server would call.

Three formats: `json`, one request in proto JSON; `lines`, one request a line, each with its reply on a line of its own,
an error as {"error": google.rpc.Status}; `delimited`, binary messages that each follow their length (protobuf's
length-prefixed messages): for each request a google.rpc.Status and, if its code is 0, the response.
"""

import asyncio
import io
import json
import sys
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TextIO, cast

from google.protobuf import descriptor_pool, json_format, message_factory, proto
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from finetree_runtime.errors import DomainError, Internal, InvalidArgument, ResourceExhausted, to_status
from finetree_runtime.server.validation import validate

OnceFormat = Literal["json", "lines", "delimited"]
"""Format of requests and replies."""

BAD_INPUT = 2
"""Exit code of a request that was refused, the same for all of the suite's programs."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams of requests (`source`), replies (`out`) and the error of a single request (`err`)."""

    source: BinaryIO
    out: BinaryIO
    err: TextIO

    @classmethod
    def standard(cls) -> "Streams":
        """Return the streams of this process."""
        return cls(sys.stdin.buffer, sys.stdout.buffer, sys.stderr)


@dataclass(frozen=True, slots=True)
class Rpc:
    """The rpc that a program answers: type of the request, the servicer's method, largest request in bytes."""

    request: type[Message]
    answer: Callable[[Any, Any], Coroutine[Any, Any, Message]]
    max_request_bytes: int

    @classmethod
    def of(cls, service: str, name: str, *, servicer: Any, max_request_bytes: int) -> "Rpc":
        """Find an rpc of a service by both names, the service's with its package."""
        described = descriptor_pool.Default().FindServiceByName(service)
        request = message_factory.GetMessageClass(described.methods_by_name[name].input_type)
        return cls(request, getattr(servicer, name), max_request_bytes)


def run(rpc: Rpc, once_format: OnceFormat, streams: Streams) -> int:
    """Answer all requests and return the exit code: 2 when a single request is refused or the input is cut, else 0."""
    programs: dict[OnceFormat, Callable[[Rpc, Streams], int]] = {
        "json": _document,
        "lines": _lines,
        "delimited": _delimited,
    }
    return programs[once_format](rpc, streams)


def _document(rpc: Rpc, streams: Streams) -> int:
    """Answer one request; its error goes to stderr."""
    try:
        answer = _answer(rpc, _of_json(rpc, streams.source.read()))
    except DomainError as error:
        streams.err.write(json_format.MessageToJson(to_status(error), preserving_proto_field_name=True) + "\n")
        return BAD_INPUT
    streams.out.write(json_format.MessageToJson(answer, preserving_proto_field_name=True).encode() + b"\n")
    streams.out.flush()
    return 0


def _lines(rpc: Rpc, streams: Streams) -> int:
    """Answer one request a line; blank lines are skipped."""
    for line in streams.source:
        if not line.strip():
            continue
        try:
            document = _dictionary(_answer(rpc, _of_json(rpc, line)))
        except Exception as error:  # noqa: BLE001 - one line must not end the rest
            document = {"error": _dictionary(_status(error))}
        streams.out.write(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        streams.out.flush()
    return 0


def _delimited(rpc: Rpc, streams: Streams) -> int:
    """Answer length-prefixed messages in order."""
    try:
        while (request := _read_delimited(rpc, streams.source)) is not None:
            try:
                reply = [status_pb2.Status(), _answer(rpc, request)]
            except Exception as error:  # noqa: BLE001 - one request must not end the rest
                reply = [_status(error)]
            _write_delimited(streams.out, reply)
    except DomainError as error:
        _write_delimited(streams.out, [to_status(error)])
        return BAD_INPUT
    return 0


def _answer(rpc: Rpc, request: Message) -> Message:
    """Answer a request as a server would. Raises DomainError."""
    validate(request)
    return asyncio.run(rpc.answer(request, None))


def _of_json(rpc: Rpc, content: bytes) -> Message:
    request = rpc.request()
    try:
        return json_format.Parse(content, request)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        text = f"stdin is not a {request.DESCRIPTOR.name} in proto JSON: {_problem_of_json(content, error)}"
        raise InvalidArgument("MALFORMED_REQUEST", text) from error


def _problem_of_json(content: bytes, error: Exception) -> str:
    """Say what is wrong with proto JSON, where the library's message speaks of Python types."""
    if "recursion" in str(error):
        return "nested too deeply"
    return str(error) if content.lstrip().startswith(b"{") else "expected an object in braces"


def _read_delimited(rpc: Rpc, source: BinaryIO) -> Message | None:
    """Read the next request; None at the end of the input."""
    try:
        parsed = proto.parse_length_prefixed(rpc.request, cast("io.BytesIO", source))
        request = cast("Message | None", parsed)  # None at the end, whatever its annotation says
    except (DecodeError, EOFError, ValueError) as error:
        text = f"stdin does not hold delimited messages of the type {rpc.request.DESCRIPTOR.name}, or ends within one"
        raise InvalidArgument("MALFORMED_REQUEST", text) from error
    if request is not None and request.ByteSize() > rpc.max_request_bytes:
        text = f"a request has {request.ByteSize()} bytes, and the service takes {rpc.max_request_bytes}"
        raise ResourceExhausted("REQUEST_TOO_LARGE", text, metadata={"limit_bytes": str(rpc.max_request_bytes)})
    return request


def _write_delimited(out: BinaryIO, messages: Iterable[Message]) -> None:
    for message in messages:
        proto.serialize_length_prefixed(message, cast("io.BytesIO", out))
    out.flush()


def _status(error: Exception) -> status_pb2.Status:
    """Convert an error as a server does; of an unexpected one only the type is shown."""
    if isinstance(error, DomainError):
        return to_status(error)
    return to_status(Internal("INTERNAL_ERROR", f"internal error: {type(error).__name__}"))


def _dictionary(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document
