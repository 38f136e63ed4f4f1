# SPDX-License-Identifier: Apache-2.0
"""Rows of an upload, checked as the trainer checks them: JSON lines of chats, of prompt and completion, or of text.

Other files, other columns, and readings that name columns or skip rows are for the trainer's own reader: a fake that
guessed what they hold would let a test pass on a file that the trainer refuses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetree_api.types.v1 import training_data_pb2

from finetree.errors import InvalidArgument, Violation
from finetree.testing.requests import invalid, not_promised

ROLES = ("system", "user", "assistant", "tool", "developer")
BYTES_PER_TOKEN = 4
_MAGIC = {b"PAR1": "Parquet", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_BOUNDS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384, 1 << 20)
_FORMATS = {
    "messages": training_data_pb2.ROW_FORMAT_CHAT,
    "prompt": training_data_pb2.ROW_FORMAT_PROMPT_COMPLETION,
    "text": training_data_pb2.ROW_FORMAT_TEXT,
}
_COLUMNS = {"messages": {"messages"}, "prompt": {"prompt", "completion"}, "text": {"text"}}


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """What a file of rows holds."""

    row_format: training_data_pb2.RowFormat.ValueType
    profile: training_data_pb2.DatasetProfile


class _WrongRowError(Exception):
    """A row that cannot be used: where in it, what is wrong, and the reason if it is not MALFORMED_ROW."""

    def __init__(self, place: str, problem: str, reason: str = "MALFORMED_ROW") -> None:
        super().__init__(problem)
        self.place, self.problem, self.reason = place, problem, reason


def check_rows(
    content: bytes, reading: training_data_pb2.DatasetReading | None = None, *, name: str = "", where: str = ""
) -> CheckedRows:
    """Check every row of a file.

    Args:
        content: the file.
        reading: how it is to be read.
        name: what errors call it.
        where: what the field paths of violations begin with, such as "job.train.spec.dataset.".

    Raises:
        InvalidArgument: MALFORMED_ROW, MIXED_FORMATS, EMPTY_DATASET, NOT_UTF8.
        Unimplemented: NOT_IN_FAKE_SUITE: only the trainer's own reader knows.
    """
    _require_simple(content, reading)
    if b"\0" in content:
        raise _of_file(f"{where}rows", "has NUL bytes, so that it is no text", "NOT_UTF8", name)
    kind, lengths, targets = "", list[int](), 0
    wrong: list[tuple[int, _WrongRowError]] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = _parse(line, guess=not kind and not wrong and not name.endswith(".jsonl"))
            kind = _kind(row, before=kind)
            total, learned = _lengths(row, kind)
        except _WrongRowError as error:
            wrong.append((number, error))
            continue
        lengths.append(max(1, total // BYTES_PER_TOKEN))
        targets += learned
    if wrong:
        if reading is not None and reading.bad_rows == training_data_pb2.BAD_ROWS_SKIP:
            raise not_promised("does not skip rows")
        raise _refusal(wrong, name, where)
    if not kind:
        raise _of_file(f"{where}rows", "the file has no rows", "EMPTY_DATASET", name)
    total = sum(lengths)
    buckets = [
        (bound, sum(low < each <= bound for each in lengths))
        for low, bound in zip((0, *_BOUNDS), _BOUNDS, strict=False)
    ]
    return CheckedRows(
        _FORMATS[kind],
        training_data_pb2.DatasetProfile(
            examples=len(lengths),
            total_tokens=total,
            target_fraction=1.0 if kind == "text" else min(1.0, targets / max(1, total * BYTES_PER_TOKEN)),
            token_lengths=[
                training_data_pb2.TokenLengthBucket(upper_bound=bound, count=count) for bound, count in buckets if count
            ],
        ),
    )


def _require_simple(content: bytes, reading: training_data_pb2.DatasetReading | None) -> None:
    for magic, word in _MAGIC.items():
        if content.startswith(magic):
            raise not_promised(f"reads JSON lines alone, and the file is {word}")
    if reading is None:
        return
    known = (training_data_pb2.FILE_FORMAT_UNSPECIFIED, training_data_pb2.FILE_FORMAT_JSONL)
    if reading.file_format not in known:
        raise not_promised("reads JSON lines alone")
    for field, column in reading.columns.ListFields():
        if column != field.name:
            raise not_promised(f"reads columns by their own names, and {field.name} is {column!r}")


def _parse(line: bytes, *, guess: bool) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise _WrongRowError("", "is not UTF-8") from None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        if guess and not text.lstrip().startswith(("{", "[")):
            raise not_promised("reads JSON lines alone, and a row is no JSON object") from None
        raise _WrongRowError("", "is not JSON") from None
    if not isinstance(row, dict):
        raise _WrongRowError("", "must be a JSON object")
    return row


def _kind(row: dict[str, Any], *, before: str) -> str:
    kind = next((word for word in _FORMATS if word in row), None)
    if kind is None or row.keys() - _COLUMNS[kind]:
        columns = ", ".join(sorted(row.keys() - _COLUMNS.get(kind or "", set())))[:80]
        raise not_promised(f"reads rows of messages, of prompt and completion, or of text, and finds {columns or '{}'}")
    if before and kind != before:
        raise _WrongRowError("", f"holds {kind}, the rows before it {before}", "MIXED_FORMATS")
    return kind


def _lengths(row: dict[str, Any], kind: str) -> tuple[int, int]:
    """Bytes of a row, and those that are learned."""
    if kind == "messages":
        return _of_chat(row["messages"])
    if kind == "text":
        size = len(_text(row["text"], "text").encode())
        return size, size
    if "completion" not in row:
        raise _WrongRowError("completion", "is missing")
    prompt, completion = _text(row["prompt"], "prompt"), _text(row["completion"], "completion")
    if not completion.strip():
        raise _WrongRowError("completion", "is empty: nothing would be learned")
    return len(prompt.encode()) + len(completion.encode()), len(completion.encode())


def _of_chat(turns: Any) -> tuple[int, int]:
    if not isinstance(turns, list):
        raise _WrongRowError("messages", "must be a list of messages")
    total = learned = 0
    for index, turn in enumerate(turns):
        place = f"messages[{index}]"
        if not isinstance(turn, dict):
            raise _WrongRowError(place, "must be a message")
        if turn.keys() - {"role", "content"}:
            raise not_promised("reads messages of role and content alone")
        if turn.get("role") not in ROLES:
            raise _WrongRowError(f"{place}.role", f"must be one of {', '.join(ROLES)}")
        size = len(_text(turn.get("content"), f"{place}.content").encode())
        total += size
        learned += size if turn["role"] == "assistant" else 0
    if not learned:
        raise _WrongRowError("messages", "has no answer of the assistant: nothing would be learned")
    return total, learned


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _WrongRowError(place, "must be a string")
    return value


def _refusal(wrong: list[tuple[int, _WrongRowError]], name: str, where: str) -> InvalidArgument:
    violations = tuple(
        Violation(f"{where}rows[{number}]{f'.{error.place}' if error.place else ''}", error.problem)
        for number, error in wrong[:32]
    )
    number, first = wrong[0]
    text = f"{name or 'the file'}: row {number}: {violations[0]}"
    return InvalidArgument(text, reason=first.reason, violations=violations, metadata={"row": str(number)})


def _of_file(field: str, text: str, reason: str, name: str) -> InvalidArgument:
    error = invalid(field, text, reason)
    error.message = f"{name or 'the file'}: {text}"
    return error
