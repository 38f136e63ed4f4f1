# SPDX-License-Identifier: Apache-2.0
"""The demo asks what it taught, in words that it did not teach."""

import pytest
from finetree_cli.demo.dataset import FACTS, MIN_COUNTRIES, ROWS_PER_FACT, SYSTEM, ChatRow, available, build


def _question(row: ChatRow) -> str:
    return row["messages"][1]["content"]


def _answer(row: ChatRow) -> str:
    return row["messages"][-1]["content"]


@pytest.mark.parametrize("countries", [MIN_COUNTRIES, 249])
def test_no_held_out_question_is_trained_on_and_each_answer_is_taught(countries: int) -> None:
    data = build(countries, seed=0)
    taught = {_question(row): _answer(row) for row in data.train_rows}
    asked = [_question(row) for row in data.eval_rows]
    assert len(asked) >= 120
    assert len(set(asked)) == len(asked)
    assert not taught.keys() & set(asked)
    for fact in FACTS:
        assert fact.held_out not in fact.trained
    answers = {(name, fact.field): codes[fact.field] for name, codes in available() for fact in FACTS}
    shown = {
        (name, fact.field): taught[ask.format(name=name)]
        for name, _ in available()
        for fact in FACTS
        for ask in fact.trained
        if ask.format(name=name) in taught
    }
    assert shown.items() <= answers.items()
    for row in data.eval_rows:
        places = [key for key in shown if _question(row) == _held_out(key[1]).format(name=key[0])]
        assert [shown[place] for place in places] == [_answer(row)]


def _held_out(field: str) -> str:
    return next(fact.held_out for fact in FACTS if fact.field == field)


def test_rows_are_chats_that_end_in_the_answer() -> None:
    for row in build(MIN_COUNTRIES, seed=3).train_rows:
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == SYSTEM
        assert _answer(row) not in _question(row).split()


def test_the_seed_chooses_the_countries_and_the_order() -> None:
    assert build(60, seed=1) == build(60, seed=1)
    assert build(60, seed=1).eval_rows != build(60, seed=2).eval_rows


def test_answers_are_those_of_the_standard() -> None:
    codes = dict(available())
    assert codes["Kenya"] == {"alpha_3": "KEN", "numeric": "404"}


def test_every_phrasing_is_taught_about_as_often_as_the_others() -> None:
    asked = [_question(row) for row in build(MIN_COUNTRIES, seed=0).train_rows]
    assert len(asked) == MIN_COUNTRIES * len(FACTS) * ROWS_PER_FACT
    names = [name for name, _ in available()]
    for fact in FACTS:
        counts = []
        for ask in fact.trained:
            questions = {ask.format(name=name) for name in names}
            counts.append(sum(question in questions for question in asked))
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("countries", [0, 250])
def test_too_few_and_too_many_countries_are_refused(countries: int) -> None:
    with pytest.raises(ValueError, match=str(countries)):
        build(countries, seed=0)
