# SPDX-License-Identifier: Apache-2.0
"""Bad rows among good ones: each is named with its field."""

import pytest
from finetree_data.errors import DatasetError
from finetree_data.options import Reading
from finetree_data.reader import RowFile
from finetree_data.rows.row import Row

USER, ANSWER = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
BAD = {
    "unknown role": ({"conversations": [USER, {"from": "asistant", "value": "a"}]}, "conversations[1].from"),
    "empty answer": ({"conversations": [USER, {"from": "gpt", "value": " "}]}, "conversations[1].value"),
    "null answer": ({"conversations": [USER, {"from": "gpt", "value": None}]}, "conversations[1].value"),
    "no answer": ({"conversations": [USER]}, "conversations"),
    "no turns": ({"conversations": []}, "conversations"),
    "a truth value": ({"instruction": "i", "output": True}, "output"),
    "a missing answer": ({"instruction": "i", "output": None}, "output"),
    "half a surrogate pair": ({"text": "a \ud800"}, "text"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, {"role": "assistant", "content": "a"}]},
        "messages[0].content[0]",
    ),
    "a call without a name": (
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}]},
        "messages[0].tool_calls[0]",
    ),
    "half a character in a call": (
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": "\ud800"}}}]}
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
    ),
    "half a character in a function": (
        {"messages": [{"role": "assistant", "content": "a"}], "tools": [{"name": "\udc00"}]},
        "tools",
    ),
    "another row format": ({"text": "t"}, ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_behind_good_ones_is_named_with_its_field(read_objects, name):
    row, field = BAD[name]
    good = (
        {"conversations": [USER, ANSWER]}
        if "conversations" in row or name == "another row format"
        else (
            {"instruction": "i", "output": "o"}
            if "instruction" in row
            else {"text": "t"}
            if "text" in row
            else {"messages": [{"role": "assistant", "content": "a"}]}
        )
    )
    with pytest.raises(DatasetError) as error:
        read_objects(good, good, row)
    assert (error.value.row, error.value.field) == (3, field)
    assert error.value.reason == ("MIXED_FORMATS" if name == "another row format" else "MALFORMED_ROW")
    rows, found = read_objects(good, row, good, skip_bad_rows=True)
    assert [r.number for r in rows] == [1, 3]
    assert (found.skipped, found.skipped_rows[0].number, found.skipped_rows[0].field) == (1, 2, field)


def test_parts_that_are_nested_without_end_are_a_bad_row(tmp_path):
    part = '{"toolResult": {"content": [' * 270 + '{"text": "a"}' + "]}}" * 270
    file = tmp_path / "rows.jsonl"
    answer = '{"role": "assistant", "content": "a"}'
    file.write_text(f'{{"messages": [{{"role": "user", "content": [{part}]}}, {answer}]}}\n', encoding="utf-8")
    found = RowFile(file, Reading(skip_bad_rows=True))
    bad_rows = [entry for entry in found.entries() if not isinstance(entry, Row)]
    assert [row.problem for row in bad_rows] == ["is nested too deeply"]
