# SPDX-License-Identifier: Apache-2.0
"""Rows of the three formats, and what is said of bad ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finetree_worker.errors import DataError
from finetree_worker.tokenize.rows import Message, Reading, RowFormat
from worker_harness import read_rows

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}


def test_chat_rows(write_rows: Callable[..., Path]) -> None:
    row_format, rows = read_rows(write_rows([{"messages": [USER, ASSISTANT]}]))
    assert row_format is RowFormat.CHAT
    assert rows[0].number == 1
    assert rows[0].messages == (Message("user", "q"), Message("assistant", "a"))


def test_prompt_completion_is_a_chat_of_two_turns(write_rows: Callable[..., Path]) -> None:
    row_format, rows = read_rows(write_rows([{"prompt": "p", "completion": "c"}]))
    assert row_format is RowFormat.PROMPT_COMPLETION
    assert rows[0].messages == (Message("user", "p"), Message("assistant", "c"))


def test_text_rows_count_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\n{"text": "two"}\n')
    row_format, rows = read_rows(path)
    assert row_format is RowFormat.TEXT
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
    with pytest.raises(DataError, match=r"Row 70001: is not JSON") as caught:
        read_rows(path)
    assert caught.value.row == 70_001


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match="is not UTF-8 at byte 10"):
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


def _parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, **options)
    return path


TURNS = [
    [{"from": "human", "value": f"q{i}", "weight": None}, {"from": "gpt", "value": f"a{i}", "weight": None}]
    for i in range(600)
]


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "none"])
def test_parquet_rows_are_the_rows_of_json(tmp_path: Path, compression: str) -> None:
    path = _parquet(tmp_path / "t", {"conversations": TURNS, "id": range(600)}, compression=compression)
    row_format, rows = read_rows(path)
    assert row_format is RowFormat.SHAREGPT
    assert [row.number for row in rows] == list(range(1, 601))
    assert rows[599].messages == (Message("user", "q599"), Message("assistant", "a599"))


def test_a_footer_is_read_without_the_library_for_the_data(tmp_path: Path) -> None:
    from finetree_data.files.parquet_footer import read_footer

    footer = read_footer(_parquet(tmp_path / "t", {"conversations": TURNS, "id": range(600)}, row_group_size=100))
    assert (footer.rows, footer.columns) == (600, ("conversations", "id"))
    assert "conversations.list.element.from" in footer.leaves
    assert footer.content_bytes > 1000


def test_a_parquet_file_that_lies_is_refused(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "t", {"text": [f"row {i}" for i in range(2000)]}, compression="none")
    honest = path.read_bytes()
    # Bytes that are no UTF-8 under a schema that says text; rows that the footer says and nobody wrote; a cut.
    number = b"\x80\x1f"  # 2000 as a zigzag varint is 0xa0 0x1f
    assert b"\xa0\x1f" in honest[-400:]
    lies = {
        "values": honest.replace(b"row 1500", b"row \xff\xff\xff\xff"),
        "rows": honest[:-400] + honest[-400:].replace(b"\xa0\x1f", number, 1),
        "cut": honest[: len(honest) // 2],
        "footer": honest[:-60] + b"x" * 40 + honest[-20:],
    }
    for name, content in lies.items():
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_rows(path)
        assert caught.value.reason == "DATASET_UNREADABLE", name


def test_null_values_of_parquet_are_bad_rows_with_their_field(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "t", {"prompt": ["a", "b"], "completion": ["c", None]})
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert (caught.value.field, caught.value.row) == ("dataset[2].completion", 2)


def test_the_file_and_the_setting_are_named(tmp_path: Path) -> None:
    path = tmp_path / "held.jsonl"
    path.write_text('{"text": ""}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_rows(path, Reading(name="held.jsonl"), place="evaluation.dataset")
    assert caught.value.field == "evaluation.dataset[1].text"
    assert caught.value.message.startswith("held.jsonl: Row 1, field text:")
