# SPDX-License-Identifier: Apache-2.0
from itertools import product
from typing import Any

import pytest
from finetree_data.errors import DatasetError
from finetree_data.options import RowFormat
from finetree_data.rows.messages import _plain_turn, _turn


def turns(row):
    return [(message.role, message.content) for message in row.messages]


def test_a_row_that_is_a_list_of_instructions_is_a_talk(read_objects):
    talk = [{"instruction": "i", "input": "about", "output": "a"}, {"instruction": "r", "input": "", "output": "b"}]
    rows, found = read_objects([talk, talk[1:]])  # Lawyer LLaMA's
    assert found.row_format is RowFormat.CHAT
    assert turns(rows[0]) == [("user", "i\n\nabout"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]
    with pytest.raises(DatasetError) as error:
        read_objects(talk, talk)  # a list a line may as well be a batch of rows
    assert "must be a JSON object, is a list" in error.value.problem


def test_content_parts_and_weights_in_the_way_of_llama_factory_are_the_same_turns(read_objects):
    def turn(role: str, text: str, weight: float) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "value": text}], "loss_weight": weight}

    row = read_objects({"messages": [turn("user", "q", 0.0), turn("assistant", "a", 1.0), turn("assistant", "b", 0.0)]})
    assert turns(row[0][0]) == [("user", "q"), ("assistant", "a"), ("assistant", "b")]
    assert [message.learned for message in row[0][0].messages[1:]] == [True, False]


def test_an_answer_of_weight_zero_is_shown_and_not_learned(read_objects):
    ask, bad = {"role": "user", "content": "q"}, {"role": "assistant", "content": "no", "weight": 0}
    row = read_objects({"messages": [ask, bad, ask, {"role": "assistant", "content": "yes", "weight": 1}]})[0][0]
    assert [message.learned for message in row.messages if message.role == "assistant"] == [False, True]


ROLES = ("user", "human", "assistant", "gpt", "system", "developer", "tool", "function_call", "User", " gpt", "me", 1)
TEXTS = ("a", "\n\na\n", " a", "é\n", "", " \n", "\ud800", "<think>b</think>c", '{"name": "f"}', None, 1, ["a"], {})


def test_a_turn_of_a_role_and_a_text_alone_is_what_any_turn_is():
    """Such a turn is parsed in a shorter way, or left to the longer one, which gives the message or the refusal."""
    short = 0
    for (speaker, key), role, text in product((("role", "content"), ("from", "value")), ROLES, TEXTS):
        turn = {speaker: role, key: text}
        plain = _plain_turn(turn)
        if plain is not None:
            assert (plain,) == _turn(turn, "messages[0]", "")
            short += 1
    assert short == 2 * 6 * 6


@pytest.mark.parametrize(
    "turn",
    [
        *({"role": "user", key: "a"} for key in ("value", "text", "parts")),
        {"from": "human", "content": "a"},
        {"role": None, "from": "human"},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "assistant", "content": "a", "reasoning_content": "b"},
        {"role": "user"},
        ["a", "b"],
        "a",
    ],
)
def test_other_turns_take_the_longer_way(turn):
    assert _plain_turn(turn) is None
