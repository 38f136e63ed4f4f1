# SPDX-License-Identifier: Apache-2.0
"""One-shot programs: requests on stdin, replies on stdout, by the methods that the server would call.

Three formats: `json`, one request in proto JSON; `lines`, one request a line, each with its reply on a line of its own,
an error as {"error": google.rpc.Status}; `frames`, binary messages as gRPC frames them: a byte, four bytes of length
(big-endian), the message. The byte is 0 before a request or a reply and 1 before a google.rpc.Status.
"""

import asyncio
import json
import struct
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TextIO

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from finetree_runtime.errors import DomainError, Internal, InvalidArgument, to_status
from finetree_runtime.server.validation import validate

OnceFormat = Literal["json", "lines", "frames"]
"""Format of requests and replies."""

BAD_INPUT = 2
"""Exit code of a request that was refused, the same for all of the suite's programs."""
HEADER = struct.Struct(">BI")
"""Header of a message in the `frames` format."""
ANSWER, STATUS = 0, 1
"""First byte of a header."""


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
    def of(cls, service: ServiceDescriptor, name: str, *, servicer: Any, max_request_bytes: int) -> "Rpc":
        """Find an rpc of a service by its name."""
        request = message_factory.GetMessageClass(service.methods_by_name[name].input_type)
        return cls(request, getattr(servicer, name), max_request_bytes)


def run(rpc: Rpc, once_format: OnceFormat, streams: Streams) -> int:
    """Answer all requests and return the exit code: 2 when a single request is refused or the input is cut, else 0."""
    programs: dict[OnceFormat, Callable[[Rpc, Streams], int]] = {
        "json": _document,
        "lines": _lines,
        "frames": _frames,
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


def _frames(rpc: Rpc, streams: Streams) -> int:
    """Answer frames in order."""
    try:
        for content in _read_frames(streams.source, rpc.max_request_bytes):
            try:
                kind, message = ANSWER, _answer(rpc, _of_bytes(rpc, content))
            except Exception as error:  # noqa: BLE001 - as above
                kind, message = STATUS, _status(error)
            _write_frame(streams.out, kind, message)
    except DomainError as error:
        _write_frame(streams.out, STATUS, to_status(error))
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


def _of_bytes(rpc: Rpc, content: bytes) -> Message:
    request = rpc.request()
    try:
        request.ParseFromString(content)
    except DecodeError as error:
        raise InvalidArgument("MALFORMED_REQUEST", f"a frame is not a {request.DESCRIPTOR.name}") from error
    return request


def _read_frames(source: BinaryIO, most: int) -> Iterator[bytes]:
    while header := source.read(HEADER.size):
        kind, size = HEADER.unpack(header) if len(header) == HEADER.size else (STATUS, 0)
        if kind != ANSWER or size > most:
            raise InvalidArgument("MALFORMED_REQUEST", f"stdin is not framed, or a frame exceeds {most} bytes")
        content = source.read(size)
        if len(content) < size:
            raise InvalidArgument("MALFORMED_REQUEST", f"stdin ends within a frame of {size} bytes")
        yield content


def _write_frame(out: BinaryIO, kind: int, message: Message) -> None:
    content = message.SerializeToString(deterministic=True)
    out.write(HEADER.pack(kind, len(content)) + content)
    out.flush()


def _status(error: Exception) -> status_pb2.Status:
    """Convert an error as a server does; of an unexpected one only the type is shown."""
    if isinstance(error, DomainError):
        return to_status(error)
    return to_status(Internal("INTERNAL_ERROR", f"internal error: {type(error).__name__}"))


def _dictionary(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document
