# SPDX-License-Identifier: Apache-2.0
"""What is measured of a row, and the metrics that it gives.

Exact match and F1 are SQuAD's (Rajpurkar et al. 2016, arXiv:1606.05250, evaluate-v1.1.py); the accuracies of choices
those of lm-evaluation-harness (`acc` and `acc_norm` of its output type multiple_choice, which divides by characters),
and per token that of Brown et al. 2020, arXiv:2005.14165, section 2.4.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from finetree_api.trainer.v1 import evaluation_pb2

from finetree_worker.training.evaluation.bootstrap import Floats, Ratio

MetricKind: TypeAlias = evaluation_pb2.EvaluationMetric.ValueType
LOSS = evaluation_pb2.EVALUATION_METRIC_LOSS
PERPLEXITY = evaluation_pb2.EVALUATION_METRIC_PERPLEXITY
TOKEN_ACCURACY = evaluation_pb2.EVALUATION_METRIC_TOKEN_ACCURACY
EXACT_MATCH = evaluation_pb2.EVALUATION_METRIC_EXACT_MATCH
F1 = evaluation_pb2.EVALUATION_METRIC_F1
CHOICE_ACCURACY = evaluation_pb2.EVALUATION_METRIC_CHOICE_ACCURACY
CHOICE_ACCURACY_NORM = evaluation_pb2.EVALUATION_METRIC_CHOICE_ACCURACY_NORM
CHOICE_ACCURACY_PER_TOKEN = evaluation_pb2.EVALUATION_METRIC_CHOICE_ACCURACY_PER_TOKEN
GENERAL_LOSS = evaluation_pb2.EVALUATION_METRIC_GENERAL_LOSS

OF_ANSWERS = (EXACT_MATCH, F1)
"""Metrics that need generated answers."""
OF_CHOICES = (CHOICE_ACCURACY, CHOICE_ACCURACY_NORM, CHOICE_ACCURACY_PER_TOKEN)
"""Metrics that need rows with choices."""
LOWER_IS_BETTER = frozenset({LOSS, PERPLEXITY, GENERAL_LOSS})
"""Metrics that fall when a model gets better; the others rise."""
DIFFERING_ROWS = 6
"""Fewest rows that must differ for a verdict: of five that all speak for one side, a two-sided sign test still has a
probability of 2/2^5 = 0.0625 (the exact form of McNemar's test)."""

_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Choice:
    """Log-likelihood (nats) of a choice after its question, and the number of its tokens and characters."""

    log_likelihood: float
    tokens: int
    characters: int


@dataclass(frozen=True, slots=True)
class RowScore:
    """Measurements of one row: its loss summed over learned tokens (nats), tokens predicted, learned tokens.

    `answer` is the greedy one, None where none was asked for; `choices` are empty where the row has none.
    """

    nats: float
    correct: int
    tokens: int
    answer: str | None = None
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class Expected:
    """The right answer of a row, and the place of the right choice; "" and -1 where there is none."""

    text: str = ""
    choice: int = -1


def normalize_answer(text: str) -> str:
    """Return a text as SQuAD compares it: small letters, no ASCII punctuation, no English articles, single spaces."""
    plain = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(answer: str, expected: str) -> bool:
    """Return whether two texts are equal when normalized."""
    return normalize_answer(answer) == normalize_answer(expected)


def token_f1(answer: str, expected: str) -> float:
    """Return the harmonic mean of precision and recall of the words of an answer, 0 to 1.

    As in SQuAD's script an answer that shares no word has 0, so has one that is empty when normalized.
    """
    given, wanted = normalize_answer(answer).split(), normalize_answer(expected).split()
    shared = sum((Counter(given) & Counter(wanted)).values())
    return 2 * shared / (len(given) + len(wanted)) if shared else 0.0


def best_choice(choices: Sequence[Choice], metric: MetricKind) -> int:
    """Return the place of the choice that a metric of OF_CHOICES takes; of equal ones the first, as numpy's argmax."""
    length: Callable[[Choice], int] = {
        CHOICE_ACCURACY: lambda _: 1,
        CHOICE_ACCURACY_NORM: lambda choice: max(1, choice.characters),
        CHOICE_ACCURACY_PER_TOKEN: lambda choice: max(1, choice.tokens),
    }[metric]
    return int(np.argmax([choice.log_likelihood / length(choice) for choice in choices]))


def row_values(metric: MetricKind, scores: Sequence[RowScore], expected: Sequence[Expected]) -> tuple[Floats, Floats]:
    """Return what each row adds to a metric, and what it counts for: learned tokens, or 1; both (rows,).

    A row that lacks an answer or choices adds nothing and counts for nothing.
    """
    pairs = list(zip(scores, expected, strict=True))
    if metric in (LOSS, PERPLEXITY, GENERAL_LOSS):
        values = [(score.nats, score.tokens) for score in scores]
    elif metric == TOKEN_ACCURACY:
        values = [(float(score.correct), score.tokens) for score in scores]
    elif metric in OF_CHOICES:
        values = [
            (float(best_choice(score.choices, metric) == right.choice), 1) if score.choices else (0.0, 0)
            for score, right in pairs
        ]
    else:
        of: Callable[[str, str], float] = token_f1 if metric == F1 else exact_match
        values = [
            (0.0, 0) if score.answer is None else (float(of(score.answer, right.text)), 1) for score, right in pairs
        ]
    over, under = np.array(values, np.float64).reshape(-1, 2).T
    return over, under


def ratio(metric: MetricKind, scores: Sequence[RowScore], expected: Sequence[Expected]) -> Ratio:
    """Return a metric over some rows, as the bootstrap draws it."""
    return Ratio(*row_values(metric, scores, expected), transform=np.exp if metric == PERPLEXITY else None)


def measurable(*, answers: bool, choices: bool) -> tuple[MetricKind, ...]:
    """Return the metrics that rows with answers or choices allow, in the order of the enum."""
    found = [LOSS, PERPLEXITY, TOKEN_ACCURACY]
    found += OF_ANSWERS if answers and not choices else ()
    found += OF_CHOICES if choices else ()
    return tuple(found)
