# SPDX-License-Identifier: Apache-2.0
"""The comparison of the methods: which rows are taught and asked, and the intervals of what is counted."""

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks" / "worker"))

import method_statistics
import method_tasks

RATED = [(f"{label} {number}", label) for label in method_tasks.LABELS for number in range(300)]


def test_rates_are_tuned_on_countries_that_no_scored_run_asks_about_or_teaches() -> None:
    tuning = method_tasks.codes_to_tune()
    scored = [method_tasks.codes(seed) for seed in method_tasks.SEEDS]
    asked = {method_tasks.question(row) for part in scored for row in part.held_out + part.train}
    assert len(tuning.train) == 15 * 2 * 4
    assert len(tuning.held_out) == 15 * 2
    assert not asked & {method_tasks.question(row) for row in tuning.train + tuning.held_out}


def test_tweets_come_with_as_many_of_each_label_and_none_is_both_taught_and_asked() -> None:
    found = method_tasks.tweets(RATED, seed=0)
    labels = [row["messages"][-1]["content"] for row in found.held_out]
    assert {label: labels.count(label) for label in method_tasks.LABELS} == dict.fromkeys(method_tasks.LABELS, 50)
    assert len(found.train) == 300
    taught = {method_tasks.question(row) for row in found.train}
    assert not taught & {method_tasks.question(row) for row in found.held_out}
    assert method_tasks.tweets(RATED, seed=1) != found == method_tasks.tweets(RATED, seed=0)


def test_only_tweets_whose_raters_agree_get_a_label_and_each_text_counts_once() -> None:
    lines = [
        "1\t1.0\tgood day",
        "2\t-2.5\tawful",
        "3\t0.7\thm",
        "4\t0.49\ta door",
        "5\t1.2\tgood day",
        "6\t2\tcaf\ufffd",
    ]
    expected = [("good day", "positive"), ("awful", "negative"), ("a door", "neutral")]
    assert list(method_tasks.labelled(lines)) == expected


def test_an_archive_of_other_content_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "tweets.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(ValueError, match="sha256"):
        method_tasks.read_tweets(archive)


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    assert method_statistics.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I


@pytest.mark.parametrize(("share", "other"), [(0.95, 0.98), (0.6, 0.9), (0.3, 0.35)])
def test_nineteen_of_twenty_intervals_hold_the_ratio_of_two_shares(share: float, other: float) -> None:
    chance, held = random.Random(7), 0
    for _ in range(1000):
        mine = sum(chance.random() < share for _ in range(120))
        theirs = sum(chance.random() < other for _ in range(120))
        low, high = method_statistics.ratio_interval(mine, 120, theirs, 120)
        held += low <= share / other <= high
    assert 0.93 <= held / 1000 <= 0.98


def test_two_perfect_scores_still_have_an_interval_around_one() -> None:
    low, high = method_statistics.ratio_interval(120, 120, 120, 120)
    assert low < 1.0 < high
    assert low == pytest.approx(1 / high)


def test_a_curve_keeps_the_mean_of_what_it_thins() -> None:
    assert method_statistics.curve([3.0, 1.0, None, 5.0, 7.0], points=2) == [2.0, 6.0]
