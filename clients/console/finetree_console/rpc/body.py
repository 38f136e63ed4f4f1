# SPDX-License-Identifier: Apache-2.0
"""Request messages from JSON bodies, strictly: every fault is refused with the path of its field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, NoReturn

from finetree.errors import InvalidSpec
from finetree.spec import message_from_dict
from google.protobuf.message import Message
from starlette.requests import Request

from finetree_console.errors import HttpError, invalid

READ_SECONDS = 30.0
"""Longest time in which a JSON body has to arrive."""
PARSED_BESIDE = 16 * 1024
"""Bytes of a body above which it is parsed in a thread: a megabyte takes the loop a second."""


async def read_message(request: Request, cls: type[Message], *, max_bytes: int) -> Message:
    """Read the request's body as a message.

    Raises:
        HttpError: UNSUPPORTED_MEDIA_TYPE, REQUEST_TOO_LARGE, BODY_TOO_SLOW, MALFORMED_REQUEST or INVALID_REQUEST.
    """
    content = await read_body(request, max_bytes=max_bytes)
    if content:
        check_media_type(request)
    if len(content) > PARSED_BESIDE:
        return await asyncio.to_thread(message_of_json, content, cls)
    return message_of_json(content, cls)


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Read a body that is held in memory.

    Raises:
        HttpError: REQUEST_TOO_LARGE, BODY_TOO_SLOW.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    content = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        text = f"the body did not arrive within {READ_SECONDS:g} s"
        raise HttpError(text, status=408, code="DEADLINE_EXCEEDED", reason="BODY_TOO_SLOW") from None
    return bytes(content)


def message_of_json(content: bytes, cls: type[Message]) -> Message:
    """Make a message from a JSON object; no bytes at all are an empty one.

    Raises:
        HttpError: MALFORMED_REQUEST: it is no JSON object, or has a key twice; INVALID_REQUEST: a field.
    """
    document = parse_json(content) if content.strip() else {}
    if not isinstance(document, dict):
        raise invalid("", f"expected a JSON object with the fields of {cls.DESCRIPTOR.name}", "MALFORMED_REQUEST")
    return message_of_document(document, cls)


def message_of_document(document: dict[str, Any], cls: type[Message]) -> Message:
    """Make a message from a JSON object that is parsed already.

    Raises:
        HttpError: INVALID_REQUEST.
    """
    try:
        return message_from_dict(cls, document)
    except InvalidSpec as error:
        raise HttpError(error.message, reason="INVALID_REQUEST", violations=error.violations) from None
    except RecursionError:
        raise _too_deep() from None


class _Object(dict[str, Any]):
    """A JSON object that remembers a key that it had twice."""

    repeated: str | None = None


def parse_json(content: bytes) -> Any:
    """Parse JSON strictly.

    Raises:
        HttpError: MALFORMED_REQUEST: it is no JSON, has a key twice, or is nested too deeply.
    """
    try:
        document = json.loads(content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
        path = _repeated(document)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError as error:
        raise invalid("", f"the body is not UTF-8: byte {error.start}", "MALFORMED_REQUEST") from None
    except json.JSONDecodeError as error:
        text = f"the body is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise invalid("", text, "MALFORMED_REQUEST") from None
    except ValueError:  # an integer of thousands of digits
        raise invalid("", "the body has a number that is too long", "MALFORMED_REQUEST") from None
    if path is not None:
        raise invalid(path, "this key stands twice", "MALFORMED_REQUEST")
    return document


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object()
    for key, value in pairs:
        if key in found:
            found.repeated = key
        found[key] = value
    return found


def _repeated(document: Any, path: str = "") -> str | None:
    """Path of the first key that an object has twice."""
    if isinstance(document, _Object) and document.repeated is not None:
        return f"{path}.{document.repeated}" if path else document.repeated
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(document, dict):
        inner = ((f"{path}.{key}" if path else key, value) for key, value in document.items())
    elif isinstance(document, list):
        inner = ((f"{path}[{index}]", value) for index, value in enumerate(document))
    return next((found for where, value in inner if (found := _repeated(value, where)) is not None), None)


def _refuse_constant(name: str) -> NoReturn:
    raise invalid("", f"{name} is not JSON; leave the field out", "MALFORMED_REQUEST")


def check_media_type(request: Request) -> None:
    """Refuse what a web page of another site can send without asking (a form, plain text), and what is not JSON.

    Raises:
        HttpError: UNSUPPORTED_MEDIA_TYPE.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise HttpError(
            f"the body is {given or 'of no stated type'}; send JSON with Content-Type: application/json (curl --json)",
            status=415,
            reason="UNSUPPORTED_MEDIA_TYPE",
        )


def _too_large(limit: int) -> HttpError:
    return HttpError(
        f"the body has more than {limit} bytes; send less in one request",
        status=413,
        code="RESOURCE_EXHAUSTED",
        reason="REQUEST_TOO_LARGE",
        metadata={"limit_bytes": str(limit)},
    )


def _too_deep() -> HttpError:
    return invalid("", "the body is nested too deeply", "MALFORMED_REQUEST")
