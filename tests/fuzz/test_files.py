# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PT017 - rows or a refusal: either answer is right, and the refusal has to be a good one
"""Whatever a file holds, reading it ends soon, in rows or in one of the documented errors."""

import gzip
import json
import time

import pytest
import zstandard
from finetree_data.contract import finding_message, findings_of
from finetree_data.errors import DatasetError
from finetree_data.files.parquet_footer import read_footer
from finetree_data.findings.finding import settled
from finetree_data.options import Columns, FileFormat, Reading, RowFormat
from finetree_data.reader import RowFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REASONS = {
    *("DATASET_NOT_FOUND", "DATASET_UNREADABLE", "DATASET_TOO_LARGE", "UNSUPPORTED_FILE", "NOT_UTF8", "MALFORMED_FILE"),
    *("MALFORMED_ROW", "MIXED_FORMATS", "TOO_MANY_BAD_ROWS", "EMPTY_DATASET", "COLUMN_NOT_FOUND", "COLUMNS_INCOMPLETE"),
}
KEYS = st.sampled_from(
    [
        "messages",
        "conversations",
        "prompt",
        "completion",
        "instruction",
        "input",
        "output",
        "text",
        "tools",
        "role",
        "content",
        "from",
        "value",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "data",
        "weight",
        "system",
        "x",
        "contents",
        "parts",
        "chosen",
        "rejected",
        "history",
        "label",
        "images",
        "choices",
        "answers",
        "question",
        "instances",
        "Definition",
        "Instances",
        "paragraphs",
        "qas",
        "message_tree_id",
        "replies",
        "row",
        "type",
        "thinking",
        "toolUse",
        "toolResult",
        "functionCall",
        "functionDeclarations",
        "toolSpec",
        "context",
        "Body",
        "gold_answer",
        "rating",
        "response_0",
        "response_1",
        "better_response_id",
        "conversation",
        "unheard of\ud800",
    ]
)
WORDS = st.sampled_from(
    [
        *("user", "assistant", "human", "gpt", "function_call", "tool", "[]", '{"name": "f"}', "", "\ud800"),
        *("tool_use", "tool_result", "thinking", "\n\nHuman: a\n\nAssistant: b", "[|Human|] a [|AI|] b"),
        *(
            "Agent: a\nCustomer: b",
            "['a', 'b']",
            "[{'role': 'user', 'content': 'a'}]",
            "a text of more than five words \ud800",
        ),
        *("false", "1", "bad", "b", "a text of more than five words \ud800"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
ROWS = st.lists(st.dictionaries(KEYS, VALUES, max_size=5), min_size=1, max_size=4)
PATHS = st.sampled_from(("", "", "x", "prompt", "messages.0.content", "text.0", "...", "0"))
READINGS = st.builds(
    Reading,
    file_format=st.none() | st.sampled_from(FileFormat),
    row_format=st.none() | st.sampled_from(RowFormat),
    columns=st.builds(Columns, messages=PATHS, prompt=PATHS, completion=PATHS, input=PATHS, text=PATHS),
    skip_bad_rows=st.booleans(),
    skip_limit=st.integers(0, 2),
)
HEADS = (
    b"",
    b"PAR1",
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
    b"[",
    b'[{"',
    b"{",
    b'{"data": [',
    b"a,b\n",
    b'"',
    b"\xff\xfe",
)
MOST_CPU_SECONDS = 2.0
FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(tmp_path, data, reading):
    path = tmp_path / "file"
    path.write_bytes(data)
    started = time.thread_time()  # how long it takes by the clock says nothing on a busy machine
    file = RowFile(path, reading)
    try:
        for row in file.rows():
            assert row.messages or row.text
            assert all(message.role for message in row.messages)
            (row.text + "".join(message.content for message in row.messages)).encode()
    except DatasetError as error:
        assert error.reason in REASONS
        assert error.problem
        assert str(tmp_path) not in error.problem
        error.problem.encode()
    assert time.thread_time() - started < MOST_CPU_SECONDS
    for found in settled(file.findings, reading):
        assert findings_of([finding_message(found)]) == (found,)
    for remark in file.remarks:
        remark.message.encode()


@FUZZ
@given(head=st.sampled_from(HEADS), body=st.binary(max_size=300), reading=READINGS)
def test_any_bytes(tmp_path, head, body, reading):
    read(tmp_path, head + body, reading)


@FUZZ
@given(rows=ROWS, reading=READINGS, document=st.booleans())
def test_any_objects_under_the_names_that_mean_something(tmp_path, rows, reading, document):
    text = json.dumps(rows) if document else "\n".join(map(json.dumps, rows))
    read(tmp_path, text.encode(), reading)


@FUZZ
@given(text=st.text(alphabet='ab,;\t"\n\r| {}[]é\ud800', max_size=120), reading=READINGS)
def test_any_table(tmp_path, text, reading):
    read(tmp_path, b"prompt,completion\n" + text.encode("utf-8", "surrogatepass"), reading)


@settings(FUZZ, max_examples=100)
@given(at=st.integers(0, 200), byte=st.integers(0, 255), cut=st.integers(0, 60))
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_any_damage_of_a_packed_file(tmp_path, pack, at, byte, cut):
    packed = bytearray(pack(b"".join(b'{"text": "%d"}\n' % i for i in range(50))))
    packed[at % len(packed)] = byte
    read(tmp_path, bytes(packed[: len(packed) - cut]), Reading())


@FUZZ
@given(body=st.binary(max_size=200))
def test_any_footer(tmp_path, body):
    file = tmp_path / "file"
    file.write_bytes(b"PAR1" + body + len(body).to_bytes(4, "little") + b"PAR1")
    try:
        assert read_footer(file).rows >= 0
    except DatasetError as error:
        assert error.reason == "DATASET_UNREADABLE"


@settings(FUZZ, max_examples=80)
@given(at=st.integers(0, 5000), byte=st.integers(0, 255))
def test_any_damage_of_a_parquet_file(tmp_path, at, byte):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from finetree_data.files.parquet import parquet_rows

    file = tmp_path / "file"
    table = pa.table({"prompt": [f"q{i}" for i in range(40)], "completion": [f"a{i}" for i in range(40)]})
    pq.write_table(table, file, compression="none")
    data = bytearray(file.read_bytes())
    data[at % len(data)] = byte
    file.write_bytes(bytes(data))
    try:
        assert sum(1 for _ in RowFile(file, Reading(skip_bad_rows=True), parquet_rows).rows()) <= 40
    except DatasetError as error:
        assert error.reason in REASONS
