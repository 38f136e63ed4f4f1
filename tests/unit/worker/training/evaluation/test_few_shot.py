# SPDX-License-Identifier: Apache-2.0
"""Examples are chosen by content and seed, and never from the rows that are evaluated on."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from finetree_worker.errors import DataError
from finetree_worker.tokenize.rows import Message, Row, RowSource
from finetree_worker.training.evaluation.few_shot import Examples, choose, keys_of
from finetree_worker.training.evaluation.general_set import general_rows

ROWS = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(20)]


def chosen(file: Path, count: int = 4, without: set[int] = frozenset(), seed: int = 0) -> list[str]:
    return [row.messages[-1].content for row in choose(RowSource(file), count, without=without, seed=seed).rows]


def test_the_order_of_the_file_changes_nothing(write_rows: Callable[..., Path]) -> None:
    first = chosen(write_rows(ROWS))
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert chosen(write_rows(shuffled, "shuffled.jsonl")) == first
    assert len(set(first)) == 4
    assert chosen(write_rows(ROWS), seed=1) != first
    # More examples are the same ones and others.
    assert chosen(write_rows(ROWS), 6)[:4] == first


def test_rows_that_are_evaluated_on_are_no_examples(write_rows: Callable[..., Path]) -> None:
    """Neither whole nor by their question: the answer would stand in the prompt."""
    file = write_rows(ROWS)
    held_out = [Row(1, (Message("user", f"Question {i}?"), Message("assistant", "Something else."))) for i in range(15)]
    found = chosen(file, 5, without=keys_of(held_out))
    assert sorted(found) == sorted(f"Answer {i}." for i in range(15, 20))


def test_too_few_rows_are_refused_by_number(write_rows: Callable[..., Path]) -> None:
    file = write_rows([*ROWS[:2], ROWS[0]])
    with pytest.raises(DataError, match="2 different rows") as refused:
        chosen(file, 3)
    assert refused.value.reason == "TOO_FEW_EXAMPLES"
    assert refused.value.field == "few_shot.dataset"


def test_an_answer_ends_where_a_model_without_a_template_goes_on_with_a_question_of_its_own() -> None:
    def examples(answer: str) -> Examples:
        return Examples((Row(1, (Message("user", "1+1?"), Message("assistant", answer))),))

    assert examples("2").own_answer("4\n\n5+5?\n\n10") == "4"
    assert examples("2").own_answer("4") == "4"
    # Answers of several paragraphs are not cut.
    assert examples("First.\n\nThen.").own_answer("One.\n\nTwo.") == "One.\n\nTwo."


def test_the_general_texts_are_sixty_different_ones_of_some_length() -> None:
    rows = general_rows()
    assert len({row.text for row in rows}) == len(rows) == 60
    assert all(120 <= len(row.text) <= 400 for row in rows)
