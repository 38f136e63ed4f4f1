# SPDX-License-Identifier: Apache-2.0
"""Predicted figures as a person would say them."""

import pytest
from finetree.quantities import approximate_duration, cost_words, duration_words, memory_words
from finetree_api.types.v1 import evidence_pb2

GIB = 1 << 30
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SHORT = "rows are short"


def interval(low: float, expected: float, high: float) -> evidence_pb2.Interval:
    return evidence_pb2.Interval(low=low, expected=expected, high=high)


@pytest.mark.parametrize(
    ("ends", "usable", "words"),
    [
        ((16.5, 18.5, 20.5), 23.52, "about 17 to 21 GiB of 24"),
        ((19.9, 20.0, 20.1), 0, "about 20 GiB"),
        ((1.04, 1.5, 2.0), 7.7, "about 1 to 2 GiB of 7.7"),
        ((0.3, 0.4, 0.5), 7.7, "about 310 to 510 MiB of 7.7 GiB"),
        ((0.5, 1.0, 1.2), 7.7, "about 510 MiB to 1.2 GiB of 7.7"),
        ((5, 20.0, 50.0), 79.1, "about 20 GiB (5 to 50 GiB) of 79 GiB"),
    ],
)
def test_memory_is_said_in_the_gigabytes_of_gpus(ends, usable, words):
    assert memory_words(interval(*(end * GIB for end in ends)), int(usable * GIB)) == words


@pytest.mark.parametrize(
    ("ends", "low_if", "words"),
    [
        ((1.6 * HOUR, 2 * HOUR, 2.4 * HOUR), "", "about 1.5 to 2.5 h"),
        ((2 * HOUR, 2.1 * HOUR, 2.2 * HOUR), "", "about 2 h"),
        ((25 * MINUTE, 37 * MINUTE, 73 * MINUTE), "", "about 25 to 75 min"),
        ((95, 159, 277), "", "about 1.5 to 5 min"),
        ((19.1 * MINUTE, 22 * MINUTE, 26 * MINUTE), "", "about 19 to 30 min"),
        ((45 * MINUTE, 80 * MINUTE, 2 * HOUR), "", "about 45 min to 2 h"),
        ((27.4 * MINUTE, 4.6 * HOUR, 9 * HOUR), SHORT, "about 4.5 h, at most 9 h; 25 min if rows are short"),
        ((11 * MINUTE, 2 * HOUR, 4 * HOUR), SHORT, "about 2 h, at most 4 h; 11 min if rows are short"),
        ((2 * HOUR, 2.1 * HOUR, 2.2 * HOUR), SHORT, "about 2 h"),
        ((1.9 * DAY, 59.9 * DAY, 289 * DAY), "", "about 60 days (45 h to 290 days)"),
    ],
)
def test_a_time_is_a_range_unless_its_lower_end_has_a_reason(ends, low_if, words):
    assert duration_words(interval(*ends), low_if=low_if) == words


@pytest.mark.parametrize(
    ("ends", "currency", "words"),
    [
        ((0.15, 0.22, 0.43), "USD", "about $0.15 to $0.43"),
        ((1.5, 1.62, 1.7), "USD", "about $1.50 to $1.70"),
        ((1200, 1234, 1290), "EUR", "about €1,200 to €1,300"),
        ((12, 13, 15), "CHF", "about 12 to 15 CHF"),
        ((0.001, 0.002, 0.003), "USD", "less than $0.01"),
    ],
)
def test_a_cost_has_its_currency(ends, currency, words):
    amount = evidence_pb2.MoneyInterval(amount=interval(*ends), currency_code=currency)
    assert cost_words(amount) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (44, "45 s"),
        (600, "10 min"),
        (5000, "85 min"),
        (3600, "1 h"),
        (400 * DAY, "400 days"),
        (3e12, "95,000 years"),
    ],
)
def test_one_time_is_rounded_to_what_matters(seconds, words):
    assert approximate_duration(seconds) == words
