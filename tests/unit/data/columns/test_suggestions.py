# SPDX-License-Identifier: Apache-2.0
"""Rows that cannot be read as they are: each is refused, with a mapping that would read it where there is one."""

import re

import pytest
from finetree_data.errors import DatasetError
from finetree_data.options import Columns

SQUAD = {"id": "1", "title": "t", "context": "c", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}}

REFUSED = {
    "a message a row": ({"message_id": "1", "parent_id": None, "text": "hi", "role": "prompter"}, "is one message"),
    "Stack Exchange's pairs": (
        {"question": "q", "response_j": "a", "response_k": "b"},
        "columns {prompt: question, completion: response_j}",
    ),
    "tokens": ({"input_ids": [1, 2], "labels": [1, 2]}, "tokenized already"),
    "translations": ({"translation": {"en": "a", "de": "b"}}, "{prompt: translation.en, completion: translation.de}"),
    "choices": ({"question": "q", "choices": ["a", "b"], "answer": 1}, "its choices and the answer's text"),
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
    "talks as columns": ({"id": ["1", "2"], "dialogue": ["a", "b"], "summary": ["c", "d"]}, "one object per row"),
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
    "questions alone": ({"turns": ["Who?", "Where?"]}, "without a speaker"),
    "two answers to three questions": ({"input": ["a", "b", "c"], "output": ["d", "e"]}, "2 answers to 3 questions"),
    "columns in place of rows": ({"question": ["a", "b"], "answer": ["c", "d"]}, "write one object per row"),
    "an answer with its names": (
        {"question": "q", "answer": {"aliases": ["a"], "type": "t", "value": "v"}},
        "columns {completion: answer.value}",
    ),
    "a question with its names": ({"question": {"text": "q"}, "answer": "a"}, "columns {prompt: question.text}"),
    "a corpus of code": ({"content": "print(1)", "lang": "py"}, "or columns {text: content} to learn the text"),
    "several answers": ({"question": "q", "answer": ["a", "b"]}, "columns {completion: answer.0}"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_as_it_is_is_refused_with_advice(read_objects, name):
    row, advice = REFUSED[name]
    with pytest.raises(DatasetError) as error:
        read_objects(row)
    assert error.value.reason == "MALFORMED_ROW"
    assert advice in error.value.problem


OFFERED = re.compile(r"columns \{([^}]*)\}")
WITH_OFFER = [name for name, (_, advice) in REFUSED.items() if OFFERED.search(advice)]


@pytest.mark.parametrize("name", WITH_OFFER)
def test_a_mapping_that_is_offered_works(read_objects, name):
    row, advice = REFUSED[name]
    for offer in OFFERED.findall(advice):
        columns = Columns(**{part: path.strip('"') for part, path in (pair.split(": ") for pair in offer.split(", "))})
        rows, _ = read_objects(row, columns=columns)
        assert len(rows) == 1
