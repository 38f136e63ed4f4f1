# SPDX-License-Identifier: Apache-2.0
"""Answers without a server: requests on stdin, answers on stdout, by the very methods that a server calls.

Three formats: `json`, one request in proto JSON; `lines`, one a line, each answered on a line of its own, errors as
{"error": google.rpc.Status}; `frames`, binary messages as gRPC frames them: a byte, four bytes of length (big-endian),
the message. The byte is 0 before a request or an answer and 1 before a google.rpc.Status.
"""

import asyncio
import inspect
import json
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TextIO, cast

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, status_pb2

from finetree_runtime.errors import DomainError, InvalidArgument, to_status
from finetree_runtime.server.handlers import takes_bytes
from finetree_runtime.server.validation import validate

OnceFormat = Literal["json", "lines", "frames"]
"""How requests and answers are written."""

BAD_INPUT = 2
"""Exit code of a request that was refused, as the suite's programs have it."""
HEADER = struct.Struct(">BI")
"""What stands before a message in the `frames` format."""
ANSWER, STATUS = 0, 1
"""First byte of a header."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Where requests come from, where answers go, and where a single request's refusal goes."""

    source: BinaryIO
    out: BinaryIO
    err: TextIO

    @classmethod
    def standard(cls) -> "Streams":
        """Those of this process."""
        return cls(sys.stdin.buffer, sys.stdout.buffer, sys.stderr)


@dataclass(frozen=True, slots=True)
class Rpc:
    """The rpc to answer: the types of what comes and goes, and the servicer's method, which may be one in bytes."""

    request: type[Message]
    response: type[Message]
    answer: Callable[[Any, Any], Any]
    max_request_bytes: int


def run(rpc: Rpc, once_format: OnceFormat, streams: Streams) -> int:
    """Answer what stdin holds; the exit code, which is 2 when a single request is refused or the input is cut."""
    programs: dict[OnceFormat, Callable[[Rpc, Streams], int]] = {
        "json": _document,
        "lines": _lines,
        "frames": _frames,
    }
    return programs[once_format](rpc, streams)


def _document(rpc: Rpc, streams: Streams) -> int:
    """One request; its refusal goes to stderr."""
    try:
        answer = _answer(rpc, _of_json(rpc, streams.source.read()))
    except DomainError as error:
        streams.err.write(json_format.MessageToJson(to_status(error), preserving_proto_field_name=True) + "\n")
        return BAD_INPUT
    streams.out.write(json_format.MessageToJson(answer, preserving_proto_field_name=True).encode() + b"\n")
    streams.out.flush()
    return 0


def _lines(rpc: Rpc, streams: Streams) -> int:
    """One request a line; blank lines are passed over."""
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
    """One frame a request, answered in order."""
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
    """What a server would answer. Raises DomainError."""
    if takes_bytes(rpc.answer):  # it validates them itself
        return rpc.response.FromString(asyncio.run(_awaited(rpc.answer, request.SerializeToString(deterministic=True))))
    validate(request)
    return cast("Message", asyncio.run(_awaited(rpc.answer, request)))


async def _awaited(answer: Callable[[Any, Any], Any], request: Any) -> Any:
    answered = answer(request, None)
    return await answered if inspect.isawaitable(answered) else answered


def _of_json(rpc: Rpc, content: bytes) -> Message:
    request = rpc.request()
    try:
        return json_format.Parse(content, request)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        text = f"stdin is no {request.DESCRIPTOR.name} in proto JSON: {_in_words(content, error)}"
        raise InvalidArgument("MALFORMED_REQUEST", text) from error


def _in_words(content: bytes, error: Exception) -> str:
    """What is wrong with proto JSON, where the library says it in Python's words."""
    if "recursion" in str(error):
        return "nested too deeply"
    return str(error) if content.lstrip().startswith(b"{") else "expected an object in braces"


def _of_bytes(rpc: Rpc, content: bytes) -> Message:
    request = rpc.request()
    try:
        request.ParseFromString(content)
    except DecodeError as error:
        raise InvalidArgument("MALFORMED_REQUEST", f"a frame is no {request.DESCRIPTOR.name}") from error
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
    """A refusal as a server sends it; anything else is our fault and says no more than its kind."""
    if isinstance(error, DomainError):
        return to_status(error)
    return status_pb2.Status(code=code_pb2.INTERNAL, message=f"unexpected {type(error).__name__}; this is our fault")


def _dictionary(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document
