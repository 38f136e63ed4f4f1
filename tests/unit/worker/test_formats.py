# SPDX-License-Identifier: Apache-2.0
"""Rows of the three formats, and what is said of bad ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finetree_worker.errors import DataError
from finetree_worker.formats import Format, Message, read_rows

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}


def test_chat_rows(write_rows: Callable[..., Path]) -> None:
    shape, rows = read_rows(write_rows([{"messages": [USER, ASSISTANT]}]))
    assert shape is Format.CHAT
    assert rows[0].number == 1
    assert rows[0].messages == (Message("user", "q"), Message("assistant", "a"))


def test_prompt_completion_is_a_chat_of_two_turns(write_rows: Callable[..., Path]) -> None:
    shape, rows = read_rows(write_rows([{"prompt": "p", "completion": "c"}]))
    assert shape is Format.PROMPT_COMPLETION
    assert rows[0].messages == (Message("user", "p"), Message("assistant", "c"))


def test_text_rows_count_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\n{"text": "two"}\n')
    shape, rows = read_rows(path)
    assert shape is Format.TEXT
    assert [(row.number, row.text) for row in rows] == [(1, "one"), (3, "two")]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"messages": []}, "dataset[1].messages"),
        ({"messages": "x"}, "dataset[1].messages"),
        ({"messages": [USER]}, "dataset[1].messages"),
        ({"messages": [USER, "x"]}, "dataset[1].messages[1]"),
        ({"messages": [USER, {"role": "robot", "content": "a"}]}, "dataset[1].messages[1].role"),
        ({"messages": [USER, {"role": "assistant"}]}, "dataset[1].messages[1].content"),
        ({"messages": [USER, {"role": "assistant", "content": 3}]}, "dataset[1].messages[1].content"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "dataset[1].messages[1].content"),
        ({"prompt": "p"}, "dataset[1].completion"),
        ({"text": None}, "dataset[1].text"),
        ({"question": "q"}, "dataset[1]"),
        ([1], "dataset[1]"),
    ],
)
def test_a_bad_row_is_named_with_its_field(write_rows: Callable[..., Path], row: Any, field: str) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(write_rows([row]))
    assert (caught.value.reason, caught.value.field, caught.value.row) == ("MALFORMED_ROW", field, 1)
    assert caught.value.remedy


def test_the_line_of_a_bad_row_deep_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "fine"}\n' * 70_000 + '{"text": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"Row 70001: not JSON") as caught:
        read_rows(path)
    assert caught.value.row == 70_001


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match="not UTF-8 at byte 10"):
        read_rows(path)


def test_an_empty_file(write_rows: Callable[..., Path]) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(write_rows([]))
    assert caught.value.reason == "EMPTY_DATASET"


def test_a_missing_file_is_named_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "no.jsonl")
    assert caught.value.reason == "DATASET_NOT_FOUND"
    assert str(tmp_path) not in caught.value.message


def test_formats_are_not_mixed(write_rows: Callable[..., Path]) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(write_rows([{"text": "t"}, {"prompt": "p", "completion": "c"}]))
    assert (caught.value.reason, caught.value.row) == ("MIXED_FORMATS", 2)
