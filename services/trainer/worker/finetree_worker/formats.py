# SPDX-License-Identifier: Apache-2.0
"""Reading JSONL training rows: chat, prompt and completion, or plain text; errors name the row and the field."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from finetree_worker.errors import DataError

ROLES = ("system", "user", "assistant", "tool", "developer")
"""Roles that a message may have."""


class Format(StrEnum):
    """Shapes of a row."""

    CHAT = "chat"
    PROMPT_COMPLETION = "prompt_completion"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One training row; `number` is its line in the file, counted from 1.

    Chat and prompt/completion rows both are messages; `text` holds a plain-text row.
    """

    number: int
    messages: tuple[Message, ...] = ()
    text: str = ""


def read_rows(path: Path) -> tuple[Format, list[Row]]:
    """All rows of a JSONL file (UTF-8, blank lines skipped), in the format that the first row has.

    Raises DataError: DATASET_NOT_FOUND, EMPTY_DATASET, MALFORMED_ROW (not JSON, missing or wrong field) or
    MIXED_FORMATS.
    """
    rows: list[Row] = []
    found: Format | None = None
    for number, value in _objects(path):
        shape = _format_of(number, value)
        if found is not None and shape is not found:
            raise DataError(
                "MIXED_FORMATS",
                f"Row {number} is of the format {shape.value}, the rows before it are {found.value}.",
                field=f"dataset[{number}]",
                remedy="Use one format in a file.",
                row=number,
            )
        found = shape
        rows.append(_parse(number, value, shape))
    if found is None:
        raise DataError(
            "EMPTY_DATASET",
            "The dataset has no rows.",
            field="dataset",
            remedy='Write one JSON object a line, such as {"messages": [{"role": "user", "content": "…"}, …]}.',
        )
    return found, rows


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.open("rb")
    except OSError as error:
        raise DataError("DATASET_NOT_FOUND", "The dataset's file cannot be read.", field="dataset") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise _malformed(number, "", f"not UTF-8 at byte {error.start}") from error
            except (json.JSONDecodeError, RecursionError) as error:
                where = f" at column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
                raise _malformed(number, "", f"not JSON{where}") from error
            if not isinstance(value, dict):
                raise _malformed(number, "", f"a JSON object is needed, this is {_kind(value)}")
            yield number, value


def _format_of(number: int, value: dict[str, Any]) -> Format:
    if "messages" in value:
        return Format.CHAT
    if "prompt" in value or "completion" in value:
        return Format.PROMPT_COMPLETION
    if "text" in value:
        return Format.TEXT
    keys = ", ".join(sorted(value)[:8]) or "none"
    raise _malformed(number, "", f'needs "messages", "prompt" and "completion", or "text"; its keys are: {keys}')


def _parse(number: int, value: dict[str, Any], shape: Format) -> Row:
    if shape is Format.TEXT:
        return Row(number, text=_text(number, value, "text"))
    if shape is Format.PROMPT_COMPLETION:
        prompt, completion = _text(number, value, "prompt"), _text(number, value, "completion")
        return Row(number, (Message("user", prompt), Message("assistant", completion)))
    messages = value["messages"]
    if not isinstance(messages, list) or not messages:
        raise _malformed(number, "messages", f"a list of messages is needed, this is {_kind(messages)}")
    turns = tuple(_message(number, i, message) for i, message in enumerate(messages))
    if not any(turn.role == "assistant" for turn in turns):
        raise _malformed(number, "messages", "there is no assistant message, so there is nothing to learn")
    return Row(number, turns)


def _message(number: int, index: int, message: Any) -> Message:
    place = f"messages[{index}]"
    if not isinstance(message, dict):
        raise _malformed(number, place, f"an object is needed, this is {_kind(message)}")
    role = message.get("role")
    if role not in ROLES:
        raise _malformed(number, f"{place}.role", f"must be one of {', '.join(ROLES)}, this is {role!r:.40}")
    return Message(role, _text(number, message, "content", place + "."))


def _text(number: int, value: dict[str, Any], name: str, prefix: str = "") -> str:
    if name not in value:
        raise _malformed(number, prefix + name, "is missing")
    text = value[name]
    if not isinstance(text, str):
        raise _malformed(number, prefix + name, f"a string is needed, this is {_kind(text)}")
    if not text.strip() and name != "prompt":
        raise _malformed(number, prefix + name, "is empty")
    return text


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    empty = "an empty " if isinstance(value, list | dict) and not value else ""
    name = names.get(type(value), "a number")
    return empty + name.split(" ")[-1] if empty else name


def _malformed(number: int, field: str, problem: str) -> DataError:
    place = f"dataset[{number}]" + (f".{field}" if field else "")
    subject = f"Row {number}, field {field}" if field else f"Row {number}"
    return DataError(
        "MALFORMED_ROW",
        f"{subject}: {problem}.",
        field=place,
        remedy="Correct this line of the file; rows are counted from 1.",
        row=number,
    )
