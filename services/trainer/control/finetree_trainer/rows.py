# SPDX-License-Identifier: Apache-2.0
"""Checks the rows of a JSONL file before anything is trained on it, and sizes them without a tokenizer."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.errors import MAX_VIOLATIONS, InvalidArgument, Violation

CHARACTERS_PER_TOKEN = 4.0
"""Characters of a token. A rule of thumb for English text (OpenAI, "What are tokens and how to count them?")."""

TOKENS_PER_MESSAGE = 5
"""Tokens that a chat template puts around a message (ChatML: two marks, role, two line breaks)."""

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest row. A longer line is a file without line breaks, not a row."""

ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})
"""Roles that a message may have."""

_SCHEMAS = {
    dataset_pb2.ROW_SCHEMA_CHAT: "chat (messages)",
    dataset_pb2.ROW_SCHEMA_PROMPT_COMPLETION: "prompt and completion",
    dataset_pb2.ROW_SCHEMA_TEXT: "text",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """A file whose rows are all sound."""

    schema: dataset_pb2.RowSchema.ValueType
    profile: run_spec_pb2.DatasetProfile


class _RowError(Exception):
    """One row is wrong: at which field, and what."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


def check(file: Path) -> Checked:
    """Read every row. Raises InvalidArgument EMPTY_DATASET, or MALFORMED_ROW with the first wrong rows.

    A violation's field is like `rows[17].messages[2].content`, rows counted from 1 as lines of the file; the
    metadata's `row` is the first of them.
    """
    sizes = _Sizes()
    faults: list[Violation] = []
    schema: dataset_pb2.RowSchema.ValueType = dataset_pb2.ROW_SCHEMA_UNSPECIFIED
    first = 0
    for number, line in _lines(file):
        try:
            value = _object(line, first_line=number == 1)
            schema = _schema(value, schema)
            sizes.add(*_measure(value, schema))
        except _RowError as fault:
            first = first or number
            place = f"rows[{number}]" + (f".{fault.field}" if fault.field else "")
            faults.append(Violation(place, fault.problem, "MALFORMED_ROW"))
            if len(faults) >= MAX_VIOLATIONS:
                break
    if faults:
        text = f"{faults[0].field_path}: {faults[0].description}; mend the data and upload it again."
        raise InvalidArgument("MALFORMED_ROW", text, metadata={"row": str(first)}, violations=faults)
    if not sizes.rows:
        text = 'has no rows; write one JSON object a line, such as {"prompt": "…", "completion": "…"}'
        raise InvalidArgument("EMPTY_DATASET", f"The dataset {text}.", violations=[("rows", text, "EMPTY_DATASET")])
    return Checked(schema, sizes.profile())


class _Sizes:
    """Token lengths as a histogram whose bounds are at most an eighth apart: at most 256 of them up to 2^30."""

    def __init__(self) -> None:
        self.rows = 0
        self._total = 0
        self._target = 0
        self._buckets: Counter[int] = Counter()

    def add(self, tokens: int, target: int) -> None:
        self.rows += 1
        self._total += tokens
        self._target += target
        shift = max(0, tokens.bit_length() - 4)
        self._buckets[-(-tokens >> shift) << shift] += 1

    def profile(self) -> run_spec_pb2.DatasetProfile:
        lengths = [
            run_spec_pb2.TokenLengthBucket(upper_bound=bound, count=count)
            for bound, count in sorted(self._buckets.items())
        ]
        return run_spec_pb2.DatasetProfile(
            examples=self.rows,
            token_lengths=lengths,
            total_tokens=self._total,
            target_fraction=self._target / self._total,
            exact=False,
        )


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if line.strip():
                yield number, line
            if len(line) > MAX_LINE_BYTES:
                return


def _object(line: bytes, *, first_line: bool) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise _RowError("", f"is longer than {MAX_LINE_BYTES} bytes; write one JSON object a line")
    try:
        value = json.loads(line.decode("utf-8-sig" if first_line else "utf-8"))
    except UnicodeDecodeError as error:
        raise _RowError("", f"is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _RowError("", f"is not JSON at column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError):
        raise _RowError(
            "", "is not JSON that can be read: nested too deeply, or a number with too many digits"
        ) from None
    if not isinstance(value, dict):
        raise _RowError("", f"must be a JSON object, is {_kind(value)}")
    return value


def _schema(value: dict[str, Any], before: dataset_pb2.RowSchema.ValueType) -> dataset_pb2.RowSchema.ValueType:
    found = _own_schema(value)
    if before not in (dataset_pb2.ROW_SCHEMA_UNSPECIFIED, found):
        raise _RowError("", f"is {_SCHEMAS[found]}, the rows before it are {_SCHEMAS[before]}")
    return found


def _own_schema(value: dict[str, Any]) -> dataset_pb2.RowSchema.ValueType:
    if "messages" in value:
        return dataset_pb2.ROW_SCHEMA_CHAT
    if "prompt" in value or "completion" in value:
        return dataset_pb2.ROW_SCHEMA_PROMPT_COMPLETION
    if "text" in value:
        return dataset_pb2.ROW_SCHEMA_TEXT
    keys = ", ".join(sorted(value)[:8])[:120] or "none"
    raise _RowError("", f'needs "messages", or "prompt" and "completion", or "text"; its keys are: {keys}')


def _measure(value: dict[str, Any], schema: int) -> tuple[int, int]:
    """Estimated tokens of a row, and those of them that are learned."""
    if schema == dataset_pb2.ROW_SCHEMA_TEXT:
        tokens = _tokens(_text(value, "text"))
        return tokens, tokens
    if schema == dataset_pb2.ROW_SCHEMA_PROMPT_COMPLETION:
        prompt = _tokens(_text(value, "prompt", may_be_empty=True)) + TOKENS_PER_MESSAGE
        target = _tokens(_text(value, "completion"))
        return prompt + target + TOKENS_PER_MESSAGE, target
    return _measure_chat(value["messages"])


def _measure_chat(messages: Any) -> tuple[int, int]:
    if not isinstance(messages, list) or not messages:
        raise _RowError("messages", f"must be a list of messages, is {_kind(messages)}")
    total = target = 0
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            raise _RowError(place, f"must be an object, is {_kind(message)}")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise _RowError(f"{place}.role", f"must be one of {', '.join(sorted(ROLES))}, is {role!r:.40}")
        tokens = _tokens(_text(message, "content", f"{place}."))
        total += tokens + TOKENS_PER_MESSAGE
        target += tokens if role == "assistant" else 0
    if not target:
        raise _RowError("messages", "have no assistant message, so there is nothing to learn")
    return total, target


def _text(value: dict[str, Any], name: str, prefix: str = "", *, may_be_empty: bool = False) -> str:
    if name not in value:
        raise _RowError(prefix + name, "is missing")
    text = value[name]
    if not isinstance(text, str):
        raise _RowError(prefix + name, f"must be a string, is {_kind(text)}")
    if not may_be_empty and not text.strip():
        raise _RowError(prefix + name, "is empty")
    return text


def _tokens(text: str) -> int:
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


def _kind(value: Any) -> str:
    if isinstance(value, list | dict) and not value:
        return "empty"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
