# SPDX-License-Identifier: Apache-2.0

"""Rendered conversations are read back into the turns that their template renders to the same text."""

import json
import random

import jinja2.sandbox
import pytest
from finetree_data.columns.template_marks import rendered_by, without_end
from finetree_data.errors import RowError
from finetree_data.options import Columns
from finetree_data.rows.rendered_chat import parse_rendered
from finetree_data.rows.row import Message
from usual_templates import TEMPLATES, conversation


def compiled(name):
    return jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=False).from_string(TEMPLATES[name])


@pytest.mark.parametrize("name", TEMPLATES)
def test_random_conversations_are_read_back_from_each_template(name):
    template, chance = compiled(name), random.Random(name)
    for _ in range(100):
        turns = conversation(chance)
        text = template.render(messages=turns, add_generation_prompt=False)
        found = parse_rendered(text, "text")
        assert [{"role": turn.role, "content": turn.content} for turn in found] == turns
        again = [{"role": turn.role, "content": turn.content} for turn in found]
        assert template.render(messages=again, add_generation_prompt=False) == text


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_rendered_prompt_and_its_answer_are_one_conversation(name, read_objects):
    template, chance = compiled(name), random.Random(name)
    rows, expected = [], []
    for _ in range(10):
        turns = conversation(chance)
        prompt = template.render(messages=turns[:-1], add_generation_prompt=True)
        whole = template.render(messages=turns, add_generation_prompt=False)
        rows.append({"prompt": prompt, "completion": whole.removeprefix(prompt)})
        expected.append([(turn["role"], turn["content"].strip()) for turn in turns])
    read, file = read_objects(*rows)
    assert [[(turn.role, turn.content.strip()) for turn in row.messages] for row in read] == expected
    assert "RENDERED_CHATS_READ_BACK" in {remark.code for remark in file.remarks}


def test_a_rendered_text_is_a_chat_unless_its_column_is_named_as_text(read_objects, read_rows):
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
    (row,), file = read_objects({"text": text, "id": 1})
    assert row.messages == (Message("user", "Hi"), Message("assistant", "Yes?"))
    assert file.row_format == "chat"
    (row,), file = read_rows(json.dumps({"text": text}), columns=Columns(text="text"))
    assert (row.text, file.row_format) == (text, "text")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<|im_start|>user\nHi<|im_start|>assistant\nYes?<|im_end|>", "does not end before the next"),
        ("<|im_start|>user\nHi<|im_end|>\nHello", "between them"),
        ("<|im_start|>critic\nHi<|im_end|>\n<|im_start|>assistant\na<|im_end|>", "no known role"),
        ("<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>a<|return|>", "read back"),
        ('<s>[INST] q [/INST] [TOOL_CALLS] [{"name": "f"}]</s>', "read back"),
        ("[INST] q [/INST]", "nothing to learn"),
    ],
)
def test_marks_that_are_no_conversation_are_refused(text, problem, refusal):
    assert problem in str(refusal(json.dumps({"text": text})))


def test_a_turn_that_holds_a_whole_conversation_is_refused(refusal):
    turns = [{"role": "user", "content": "[INST] Hi [/INST]"}, {"role": "assistant", "content": "a"}]
    error = refusal(json.dumps({"messages": turns}))
    assert (error.field, error.row) == ("messages[0]", 1)
    assert "Mistral" in str(error)


def test_a_rendered_prompt_beside_what_it_does_not_hold_is_refused(refusal):
    row = {"prompt": "<|im_start|>user\nHi<|im_end|>\n", "context": "of trees", "completion": "a"}
    assert '"context" beside it' in str(refusal(json.dumps(row)))


@pytest.mark.parametrize("end", ["<|im_end|>", "</s>\n", "<|eot_id|><|end_of_text|>", " <|endoftext|>"])
def test_the_end_behind_an_answer_is_the_templates_own(end, read_objects):
    (row, other), _ = read_objects({"prompt": "q", "completion": "a" + end}, {"prompt": "q", "completion": "b"})
    assert [row.messages[-1].content.strip(), other.messages[-1].content] == ["a", "b"]


def test_an_end_inside_an_answer_stays():
    assert without_end("the token </s> ends a text") == "the token </s> ends a text"
    assert without_end("he is <s>gone</s>") == "he is <s>gone</s>"


@pytest.mark.parametrize(
    "text", ["[1] a list", "<p>html</p>", "<|endoftext|>", "", "[INSTALL] this", "<s>struck</s> out"]
)
def test_other_texts_are_not_taken_for_rendered_ones(text):
    assert rendered_by(text) == ""
    with pytest.raises(RowError):
        parse_rendered(text, "text")
