# SPDX-License-Identifier: Apache-2.0
"""Rows that cannot be taken as they are: each is refused by its field, with a mapping where one would do."""

import json
import re
from typing import Any

import pytest
from finetree_data.errors import DatasetError
from finetree_data.options import Columns, Reading
from finetree_data.reader import RowFile
from finetree_data.rows.row import Row

SQUAD = {"id": "1", "title": "t", "context": "c", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}}


def read(tmp_path, *rows: Any, **reading: Any):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = RowFile(file, Reading(**reading))
    return list(found.rows()), found


REFUSED = {
    "a message a row": ({"message_id": "1", "parent_id": None, "text": "hi", "role": "prompter"}, "is one message"),
    "Stack Exchange's pairs": (
        {"question": "q", "response_j": "a", "response_k": "b"},
        "columns {prompt: question, completion: response_j}",
    ),
    "tokens": ({"input_ids": [1, 2], "labels": [1, 2]}, "tokenised already"),
    "translations": ({"translation": {"en": "a", "de": "b"}}, "{prompt: translation.en, completion: translation.de}"),
    "choices": ({"question": "q", "choices": ["a", "b"], "answer": 1}, "its choices and the answer's words"),
    "a label beside a text": (
        {"text": "t", "label": "l"},
        "columns {prompt: text, completion: label} to learn the label, or columns {text: text} to learn the text",
    ),
    "a model's answer beside the right one": (
        {"user_input": "q", "response": "b", "reference": "a"},
        "columns {prompt: user_input, completion: reference}",
    ),
    "a model's answer beside the gold one": (
        {"prompt": "q", "response": "b", "gold": "a", "result": False},
        "columns {prompt: prompt, completion: gold} to learn the right one",
    ),
    "a generated answer beside the truth": (
        {"question": "q", "answer": "b", "contexts": ["c"], "ground_truth": "a"},
        "or columns {prompt: question, completion: answer} to learn the other",
    ),
    "a choice a column": ({"input": "q", "A": "a", "B": "b", "C": "c", "output": "B"}, "its choices and the answer"),
    "numbered choices": (
        {"sentence": "s", "option1": "a", "option2": "b", "option3": "c", "answer": "1"},
        "its choices and the answer",
    ),
    "two texts and their label": (
        {"premise": "p", "hypothesis": "h", "label": 2},
        "columns {prompt: premise, input: hypothesis, completion: label}",
    ),
    "a label that is a number": (
        {"label": 3, "text": "t"},
        "columns {prompt: text, completion: label} to learn the label",
    ),
    "a text beside a prompt": (
        {"id": 1, "prompt": "p", "prompt_class": "c", "text": "t", "model": "m"},
        "columns {prompt: prompt, completion: text} to learn the text, or columns {text: text} to learn the text",
    ),
    "intents beside a text": ({"text": "t", "intents": ["i", "j"]}, "columns {text: text}"),
    "an image's path": (
        {"question": "q", "answer": "a", "image_path": "a.png"},
        "{prompt: question, completion: answer}",
    ),
    "talks as columns": ({"id": ["1", "2"], "dialogue": ["a", "b"], "summary": ["c", "d"]}, "an object for each row"),
    "unknown names": (
        {"headline": "h", "abstract": "s"},
        "name yours, such as columns {prompt: headline, completion: abstract}",
    ),
    "names that say a little": (
        {"id": "x", "my_output": "o", "my_input": "i"},
        "columns {prompt: my_input, completion: my_output}",
    ),
    "names with spaces": (
        {"Tweet text": "t", "text_label": "l"},
        'columns {prompt: "Tweet text", completion: text_label}',
    ),
    "unknown names in a row of a data set server": (
        {"row_idx": 0, "row": {"headline": "h", "abstract": "s"}, "truncated_cells": []},
        "columns {prompt: headline, completion: abstract}",
    ),
    "one text": ({"id": "x", "body": "b"}, "columns {text: body}"),
    "a nested answer": (
        {"prompt": "q", "extra": {"answer": "a"}},
        "columns {prompt: prompt, completion: extra.answer}",
    ),
    "no names at all": (
        {"What is a tide?": 1, "It is the rise and fall of the sea's surface, twice a day at most coasts": 2},
        "first line",
    ),
    "an image beside its text": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "images": ["a.png"]},
        "columns {messages: messages}",
    ),
    "questions alone": ({"turns": ["Who?", "Where?"]}, "do not say who speaks"),
    "two answers to three questions": ({"input": ["a", "b", "c"], "output": ["d", "e"]}, "2 answers to 3 questions"),
    "columns in place of rows": ({"question": ["a", "b"], "answer": ["c", "d"]}, "write an object for each row"),
    "an answer with its names": (
        {"question": "q", "answer": {"aliases": ["a"], "type": "t", "value": "v"}},
        "columns {completion: answer.value}",
    ),
    "a question with its names": ({"question": {"text": "q"}, "answer": "a"}, "columns {prompt: question.text}"),
    "a corpus of code": ({"content": "print(1)", "lang": "py"}, "or columns {text: content} to learn the text"),
    "several answers": ({"question": "q", "answer": ["a", "b"]}, "columns {completion: answer.0}"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_as_it_is_is_refused_with_advice(tmp_path, name):
    row, advice = REFUSED[name]
    with pytest.raises(DatasetError) as error:
        read(tmp_path, row)
    assert error.value.reason == "MALFORMED_ROW"
    assert advice in error.value.problem


OFFERED = re.compile(r"columns \{([^}]*)\}")
WITH_OFFER = [name for name, (_, advice) in REFUSED.items() if OFFERED.search(advice)]


@pytest.mark.parametrize("name", WITH_OFFER)
def test_a_mapping_that_is_offered_works(tmp_path, name):
    row, advice = REFUSED[name]
    for offer in OFFERED.findall(advice):
        columns = Columns(**{part: path.strip('"') for part, path in (pair.split(": ") for pair in offer.split(", "))})
        rows, _ = read(tmp_path, row, columns=columns)
        assert len(rows) == 1


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
    "another layout": ({"text": "t"}, ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_behind_good_ones_is_named_with_its_field(tmp_path, name):
    row, field = BAD[name]
    good = (
        {"conversations": [USER, ANSWER]}
        if "conversations" in row or name == "another layout"
        else (
            {"instruction": "i", "output": "o"}
            if "instruction" in row
            else {"text": "t"}
            if "text" in row
            else {"messages": [{"role": "assistant", "content": "a"}]}
        )
    )
    with pytest.raises(DatasetError) as error:
        read(tmp_path, good, good, row)
    assert (error.value.row, error.value.field) == (3, field)
    assert error.value.reason == ("MIXED_FORMATS" if name == "another layout" else "MALFORMED_ROW")
    rows, found = read(tmp_path, good, row, good, skip_bad_rows=True)
    assert [r.number for r in rows] == [1, 3]
    assert (found.skipped, found.faults[0].number, found.faults[0].field) == (1, 2, field)


def test_parts_that_are_nested_without_end_are_a_bad_row(tmp_path):
    part = '{"toolResult": {"content": [' * 270 + '{"text": "a"}' + "]}}" * 270
    file = tmp_path / "rows.jsonl"
    answer = '{"role": "assistant", "content": "a"}'
    file.write_text(f'{{"messages": [{{"role": "user", "content": [{part}]}}, {answer}]}}\n', encoding="utf-8")
    found = RowFile(file, Reading(skip_bad_rows=True))
    faults = [entry for entry in found.entries() if not isinstance(entry, Row)]
    assert [fault.problem for fault in faults] == ["is nested too deeply"]
