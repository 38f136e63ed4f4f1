# SPDX-License-Identifier: Apache-2.0
"""Recorded answers, as OpenAI's programs write them, and how they are put to new ones."""

import json

from finetree_api.trainer.v1 import event_pb2
from finetree_cli.migrate.comparison import compare
from finetree_cli.migrate.recorded import Recorded, evaluation_rows, key_of, read_recorded, read_references

ASKED = [{"role": "user", "content": "What follows 1?"}]


def test_every_kind_of_record_is_read():
    choices = [{"message": {"role": "assistant", "content": "2"}}]
    found = read_recorded(
        [
            {"object": "chat.completion", "model": "m", "messages": ASKED, "choices": choices},
            {"object": "eval.run.output_item", "sample": {"model": "m", "input": ASKED, "output": choices[0:0]}},
            {"sample": {"model": "m", "input": ASKED, "output": [{"role": "assistant", "content": "2"}]}},
            {"custom_id": "a", "response": {"body": {"model": "m", "choices": choices}}},
            {"custom_id": "a", "body": {"messages": ASKED}},
        ]
    )
    assert found == [Recorded(tuple(ASKED), "2", "m")] * 3


def test_what_has_no_question_or_no_text_is_left_out():
    image = [{"role": "user", "content": [{"type": "image_url"}]}]
    answer = [{"message": {"content": "2"}}]
    documents = [
        {"choices": answer},
        {"messages": image, "choices": answer},
        {"messages": ASKED, "choices": [{"message": {"content": None, "tool_calls": []}}]},
        {"custom_id": "b", "response": {"body": {"choices": answer}}},
        {"custom_id": "c", "response": {"error": "x"}},
    ]
    assert read_recorded(documents) == []


def test_parts_are_one_text():
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "follows 1?"}]
    (found,) = read_recorded(
        [{"messages": [{"role": "user", "content": parts}], "choices": [{"message": {"content": "2"}}]}]
    )
    assert found.prompt == "What follows 1?"


def test_the_expected_answer_is_the_reference_where_there_is_one(tmp_path):
    file = tmp_path / "validation.jsonl"
    file.write_text(json.dumps({"messages": [*ASKED, {"role": "assistant", "content": "two"}]}) + "\n")
    references = read_references(file)
    other = Recorded(({"role": "user", "content": "And 5?"},), "6")
    rows = evaluation_rows([Recorded(tuple(ASKED), "2"), other], references)
    assert [row["messages"][-1]["content"] for row in rows] == ["two", "6"]


def test_old_answers_stand_beside_new_ones():
    again = ({"role": "system", "content": "Be brief."}, *ASKED)
    records = [
        Recorded(tuple(ASKED), "2"),
        Recorded(again, "3"),
        Recorded(({"role": "user", "content": "And 5?"},), "6"),
    ]
    references = {key_of(again): "2"}
    samples = [
        event_pb2.Sample(prompt="What follows 1?", expected="2", before="?", after=" 2 "),
        event_pb2.Sample(prompt="What follows 1?", expected="2", before="1", after="4"),
        event_pb2.Sample(prompt="Not recorded", expected="2", after="2"),
    ]
    found = compare(records, references, samples)
    assert [(each.openai, each.after, each.reference) for each in found.answers] == [("2", " 2 ", ""), ("3", "4", "2")]
    document = found.document()
    assert (document["recorded"], document["asked_again"], document["same_as_openai"]) == (3, 2, 1)
    assert document["right"] == {"questions": 1, "openai": 0, "before": 0, "after": 0}
    assert compare(records, {}, samples).right() is None
