# SPDX-License-Identifier: Apache-2.0
"""Which rows are measured, and how many examples stand before each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finetree_worker.plan import DataPlan
from finetree_worker.tokenize.rows import Message, Row
from finetree_worker.training.evaluate import prompt_tokens
from finetree_worker.training.evaluation.few_shot import Examples
from finetree_worker.training.evaluation.rows import HeldOut, Room, general, load_held_out, prompted, with_questions


@pytest.fixture
def held_out(tmp_path: Path, write_rows: Callable[..., Path], tokenizer: Any) -> Callable[..., HeldOut]:
    def load(rows: list[Any], limit: int = 512, answer: int = 8, most: int = 0) -> HeldOut:
        plan = DataPlan(write_rows(rows), tmp_path / "work", sequence_length=limit)
        found, _ = load_held_out(plan, tokenizer, room=Room(limit, answer), most=most, on_progress=lambda *_: None)
        return found

    return load


def pair(number: int, length: int) -> dict[str, str]:
    return {"prompt": f"{number} " + "q" * length, "completion": f"a{number}"}


def test_rows_that_leave_no_room_for_an_answer_are_left_out_and_counted(
    held_out: Callable[..., HeldOut], tokenizer: Any
) -> None:
    rows = [pair(1, 10), pair(2, 200), pair(3, 20)]
    question = Row(2, (Message("user", rows[1]["prompt"]), Message("assistant", "a2")))
    # The row itself fits, so that its loss could be measured, and an answer of 8 tokens does not.
    found = held_out(rows, limit=len(prompt_tokens(question, tokenizer)) + 7)
    assert [row.number for row in found.asked.rows] == [1, 3]
    assert (found.too_long, found.in_file) == (1, 3)
    assert [right.text for right in found.expected] == ["a1", "a3"]
    assert [example.row for example in found.asked.examples] == [0, 1]


def test_without_answers_only_what_is_learned_must_fit(held_out: Callable[..., HeldOut]) -> None:
    rows = [pair(1, 10), {"prompt": "2", "completion": "a" * 200}]
    found = held_out(rows, limit=120, answer=0)
    assert [row.number for row in found.asked.rows] == [1, 2]
    assert max(map(len, found.asked.examples)) == 120


def test_rows_get_fewer_examples_until_they_fit(held_out: Callable[..., HeldOut], tokenizer: Any) -> None:
    found = held_out([pair(1, 4), pair(2, 260), pair(3, 330)], limit=400)
    asked = with_questions(found.asked)
    assert asked.questions == [0, 1, 2]
    examples = Examples(tuple(Row(i, (Message("user", "x" * 30), Message("assistant", f"y{i}"))) for i in range(4)))
    longer, shorter = prompted(found, examples, tokenizer=tokenizer, room=Room(400, 8))
    turns = [len(row.messages) for row in longer.rows]
    assert turns[0] == 2 + 2 * 4
    assert turns[0] > turns[1] >= turns[2] == 2
    assert shorter == 2
    assert all(len(example) <= 400 for example in longer.examples)
    assert [example.targets for example in longer.examples] == [example.targets for example in found.asked.examples]


def test_general_texts_are_learned_whole_and_do_not_end(tokenizer: Any) -> None:
    found = general(tokenizer, 50)
    assert len(found.examples) == 60
    assert all(len(example) == 50 and bool(example.is_target.all()) for example in found.examples)
    whole = general(tokenizer, 1000)
    assert all(int(example.tokens[-1]) != tokenizer.eos_token_id for example in whole.examples)
