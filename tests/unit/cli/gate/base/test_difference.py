# SPDX-License-Identifier: Apache-2.0
"""What a change does: jobs paired by file, differences end by end, totals."""

import dataclasses

import gate_reports as sample
import pytest
from finetree_cli.gate import report as gate
from finetree_cli.gate.base.difference import compare, delta, totals


def entry(file: str, memory: float = 10, hours: float = 2, cost: float = 8, **changes: object) -> gate.PlanEntry:
    found = sample.figures(memory, hours, cost)
    given = {name: getattr(found, name) for name in ("memory_bytes", "duration_seconds", "cost", "fit")}
    return sample.entry(file, **{**given, **changes})


BASE = sample.make(
    entry("same.yaml"),
    entry("bigger.yaml"),
    entry("gone.yaml"),
    entry("old-name.yaml"),
    sample.unreadable("broken.yaml"),
)
HEAD = sample.make(
    entry("same.yaml"),
    entry("bigger.yaml", 14, 3, 20),
    entry("fresh.yaml", cost=50),
    entry("new-name.yaml"),
    entry("broken.yaml"),
)


def compared() -> gate.Report:
    return compare(BASE, HEAD, base_ref="main", renames={"new-name.yaml": "old-name.yaml"})


def test_each_job_has_its_change_and_its_base():
    found = compared()
    assert {each.file: each.change for each in found.plans} == {
        "same.yaml": "unchanged",
        "bigger.yaml": "changed",
        "fresh.yaml": "new",
        "new-name.yaml": "unchanged",
        "broken.yaml": "changed",
        "gone.yaml": "removed",
    }
    assert {each.file: each.former_file for each in found.plans if each.former_file} == {
        "new-name.yaml": "old-name.yaml"
    }
    by_file = {each.file: each for each in found.plans}
    assert by_file["bigger.yaml"].base == sample.figures(10, 2, 8)
    assert by_file["fresh.yaml"].base is None
    assert by_file["gone.yaml"].base == sample.figures(10, 2, 8)
    assert by_file["gone.yaml"].memory_bytes is None
    assert found.base_ref == "main"


def test_a_removed_job_stops_nothing_and_the_verdict_is_the_heads():
    assert compared().passed
    failing = dataclasses.replace(HEAD, plans=(sample.FAILING,))
    assert (compare(BASE, failing, base_ref="x").verdict, compare(failing, HEAD, base_ref="x").verdict) == (
        "FAIL",
        "PASS",
    )


def test_another_setting_is_a_change_even_if_the_figures_agree_and_other_revisions_alone_are_none():
    plan = {"spec": {"lora": {"rank": 8}}, "revision": {"engine": {"id": "1"}}, "digest": "sha256:1"}
    other = {"spec": {"lora": {"rank": 8}}, "revision": {"engine": {"id": "2"}}, "digest": "sha256:2"}
    alpha = {"spec": {"lora": {"rank": 8, "alpha": 32}}}
    base = sample.make(entry("a.yaml", plan=plan), entry("b.yaml", plan=plan))
    head = sample.make(entry("a.yaml", plan=other), entry("b.yaml", plan=alpha))
    assert [each.change for each in compare(base, head, base_ref="x").plans] == ["unchanged", "changed"]


def test_two_unreadable_files_are_compared_by_their_bytes():
    first = dataclasses.replace(sample.unreadable("a.yaml"), file_sha256="1")
    for sha, change in (("1", "unchanged"), ("2", "changed")):
        second = dataclasses.replace(first, file_sha256=sha)
        (found,) = compare(sample.make(first), sample.make(second), base_ref="x").plans
        assert found.change == change


def test_a_difference_is_taken_end_by_end():
    base, head = gate.Range(low=10, expected=12, high=20), gate.Range(low=11, expected=15, high=22)
    assert delta(base, head) == gate.Range(low=1, expected=3, high=3)
    assert delta(head, base) == gate.Range(low=-3, expected=-3, high=-1)
    assert delta(None, head) is None
    assert delta(sample.dollars(1), sample.dollars(1, "EUR")) is None


def test_totals_are_sums_of_both_sides_by_currency():
    found = totals(compared())
    assert found.duration_seconds is not None
    assert found.jobs == {"new": 1, "changed": 2, "removed": 1, "unchanged": 2}
    assert found.duration_seconds.base.expected == pytest.approx(4 * 2 * 3600)
    assert found.duration_seconds.head.expected == pytest.approx((2 + 3 + 2 + 2) * 3600)
    assert {code: (sides.base.expected, sides.head.expected) for code, sides in found.cost.items()} == {
        "USD": (pytest.approx(32), pytest.approx(8 + 20 + 50 + 8))
    }
    assert found.cost["USD"].head.high == pytest.approx(2 * 86)
    assert (found.untimed, found.unpriced) == (1, 1), "the file that could not be read before"


def test_a_job_whose_number_is_unknown_on_one_side_counts_on_neither():
    base, unpriced = sample.make(entry("a.yaml"), entry("b.yaml")), dataclasses.replace(entry("a.yaml"), cost=None)
    for head, hours, untimed in ((unpriced, 2, 0), (sample.unreadable("a.yaml"), 0, 1)):
        found = totals(compare(base, sample.make(head, entry("b.yaml")), base_ref="x"))
        assert found.duration_seconds is not None
        for sides, each in ((found.cost["USD"], 8), (found.duration_seconds, (hours + 2) * 3600)):
            assert (sides.base.expected, sides.head.expected) == (pytest.approx(each), pytest.approx(each))
        assert (found.untimed, found.unpriced) == (untimed, 1)


def test_a_sum_of_no_job_is_unknown_and_not_nothing():
    report = sample.make(dataclasses.replace(entry("a.yaml"), duration_seconds=None, cost=None))
    found = totals(compare(report, report, base_ref="x"))
    assert (found.duration_seconds, found.cost) == (None, {})
    assert (found.untimed, found.unpriced) == (1, 1)


def test_another_currency_has_a_total_of_its_own():
    base = sample.make(entry("a.yaml"))
    head = sample.make(dataclasses.replace(entry("a.yaml"), cost=sample.dollars(7, "EUR")))
    found = totals(compare(base, head, base_ref="x"))
    assert {code: (sides.base.expected, sides.head.expected) for code, sides in found.cost.items()} == {
        "EUR": (0, 7),
        "USD": (8, 0),
    }
