# SPDX-License-Identifier: Apache-2.0
"""Metrics of rows against values computed by hand."""

import math

import numpy as np
import pytest
from finetree_worker.training.evaluation import metrics
from finetree_worker.training.evaluation.metrics import Choice, Expected, RowScore, ratio


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "f1"),
    [
        ("Paris", "paris", True, 1.0),
        ("The Eiffel Tower!", "eiffel tower", True, 1.0),
        # Precision 2/4, recall 2/3: 2 * (1/2 * 2/3) / (1/2 + 2/3) = 4/7.
        ("it is in Paris", "Paris is nice", False, 4 / 7),
        # Words count as often as both have them: one "very" is shared, and "good".
        ("very very very good", "very good", False, 2 * 2 / (4 + 2)),
        ("London", "Paris", False, 0.0),
        ("", "Paris", False, 0.0),
        # SQuAD's script: what is empty when normalized equals what is, and shares no word with it.
        ("the", "a", True, 0.0),
        ("rock-'n'-roll", "rocknroll", True, 1.0),
        ("an   apple\n\ttree", "apple tree", True, 1.0),
        ("Theatre", "atre", False, 0.0),
    ],
)
def test_exact_match_and_f1_are_those_of_squad(answer: str, expected: str, exact: bool, f1: float) -> None:
    assert metrics.exact_match(answer, expected) is exact
    assert metrics.token_f1(answer, expected) == pytest.approx(f1)
    assert metrics.token_f1(expected, answer) == pytest.approx(f1)


def test_each_accuracy_of_choices_divides_by_its_own_length() -> None:
    """Of three choices each is the best by another measure: as a whole, by character, by token."""
    choices = (Choice(-4.0, 1, 2), Choice(-6.0, 3, 12), Choice(-5.5, 4, 6))
    # By character: -2, -0.5, -0.917; by token: -4, -2, -1.375.
    assert metrics.best_choice(choices, metrics.CHOICE_ACCURACY) == 0
    assert metrics.best_choice(choices, metrics.CHOICE_ACCURACY_NORM) == 1
    assert metrics.best_choice(choices, metrics.CHOICE_ACCURACY_PER_TOKEN) == 2
    # Of equal ones the first, as numpy's argmax.
    assert metrics.best_choice((Choice(-1.0, 1, 1), Choice(-1.0, 1, 1)), metrics.CHOICE_ACCURACY) == 0


SCORES = [
    RowScore(2.0, 3, 4, "Paris", (Choice(-1.0, 1, 5), Choice(-2.0, 1, 3))),
    RowScore(9.0, 0, 6, "no idea", (Choice(-1.0, 1, 5), Choice(-2.0, 1, 3))),
]
EXPECTED = [Expected("paris", 0), Expected("Rome", 1)]


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (metrics.LOSS, 11 / 10),
        (metrics.PERPLEXITY, math.exp(1.1)),
        (metrics.TOKEN_ACCURACY, 3 / 10),
        (metrics.EXACT_MATCH, 1 / 2),
        (metrics.F1, 1 / 2),
        (metrics.CHOICE_ACCURACY, 1 / 2),
        (metrics.CHOICE_ACCURACY_NORM, 1 / 2),
    ],
)
def test_a_metric_of_two_rows_is_what_one_computes_by_hand(metric: int, value: float) -> None:
    assert ratio(metric, SCORES, EXPECTED).value == pytest.approx(value)


def test_rows_without_an_answer_have_no_part_in_exact_match() -> None:
    scores = [*SCORES, RowScore(1.0, 1, 1)]
    expected = [*EXPECTED, Expected()]
    assert ratio(metrics.EXACT_MATCH, scores, expected).value == 1 / 2
    assert ratio(metrics.CHOICE_ACCURACY, scores, expected).value == 1 / 2
    assert ratio(metrics.LOSS, scores, expected).value == pytest.approx(12 / 11)


def test_leaving_a_row_out_is_what_the_jackknife_needs() -> None:
    found = ratio(metrics.LOSS, SCORES, EXPECTED)
    assert np.allclose(found.leave_one_out, [9 / 6, 2 / 4])


def test_what_rows_allow() -> None:
    losses = (metrics.LOSS, metrics.PERPLEXITY, metrics.TOKEN_ACCURACY)
    assert metrics.measurable(answers=False, choices=False) == losses
    assert metrics.measurable(answers=True, choices=False) == (*losses, metrics.EXACT_MATCH, metrics.F1)
    assert metrics.measurable(answers=True, choices=True) == (*losses, *metrics.OF_CHOICES)
