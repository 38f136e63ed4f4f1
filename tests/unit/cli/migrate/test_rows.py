# SPDX-License-Identifier: Apache-2.0
"""Rows of OpenAI's files: kept, converted, or refused by line."""

import json
from typing import Any

import pytest
from finetree_cli.migrate.rows import convert_file


def converted(tmp_path, *rows: Any):
    source, target = tmp_path / "file-1.jsonl", tmp_path / "out" / "file-1.jsonl"
    source.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    found = convert_file(source, target)
    return found, [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def chat(*messages: dict[str, Any], **more: Any):
    return {"messages": list(messages), **more}


USER = {"role": "user", "content": "grüße"}
ANSWER = {"role": "assistant", "content": "ok"}


def test_what_the_trainer_reads_stays_as_it_is(tmp_path):
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    call = {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    rows = [
        chat(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}),
        chat(USER, call, {"role": "tool", "tool_call_id": "1", "content": "r"}, ANSWER, tools=[tool]),
        {"prompt": "a", "completion": "b"},
    ]
    found, written = converted(tmp_path, *rows)
    assert written == rows
    assert (found.rows, dict(found.counts), found.problems) == (3, {"weight": 1, "tools": 1}, [])
    assert found.notes == [
        "tools and tool calls are kept, and rendered by the base model's chat template (1 of 3 rows)",
        "answers with weight 0 are context and not learned (1 of 3 rows)",
    ]


def test_what_differs_is_converted(tmp_path):
    part = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    found, written = converted(
        tmp_path,
        chat(USER, ANSWER, parallel_tool_calls=False),
        chat(USER, {"role": "assistant", "content": None, "refusal": "No."}),
        chat(USER, part),
        chat(USER, {**ANSWER, "refusal": None}),
    )
    assert written == [
        chat(USER, ANSWER),
        chat(USER, {"role": "assistant", "content": "No."}),
        chat(USER, {"role": "assistant", "content": [{"type": "text", "text": "No."}]}),
        chat(USER, ANSWER),
    ]
    assert dict(found.counts) == {"parallel_tool_calls": 1, "refusal": 2}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (chat({"role": "user", "content": [{"type": "image_url"}]}, ANSWER), "messages[0].content[0] is an image"),
        (chat(USER, {**ANSWER, "audio": {"id": "x"}}), "messages[1].audio is audio"),
        ({"input": chat(USER), "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}, "a preference pair"),
        ("no json", "not JSON"),
        ("[1]", "not a JSON object"),
    ],
)
def test_what_cannot_be_trained_on_is_named_by_line(tmp_path, row, problem):
    found, written = converted(tmp_path, chat(USER, ANSWER), "", row)
    assert len(written) == 1
    assert found.refusal().startswith(f"line 3: {problem}")


def test_a_refusal_names_the_first_places_and_counts_the_others(tmp_path):
    image = chat({"role": "user", "content": [{"type": "image_url"}]}, ANSWER)
    found, _ = converted(tmp_path, *[image] * 8)
    assert found.refusal().count("line ") == 5
    assert found.refusal().endswith(", and 3 more")
