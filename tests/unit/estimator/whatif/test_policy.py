# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator.intervals import Interval
from finetree_estimator.memory.fit import Verdict as FitVerdict
from finetree_estimator.whatif import policy
from finetree_estimator.whatif.policy import Finding, Rule, Verdict
from hypothesis import given
from hypothesis import strategies as st

HOURS = Rule("policy.max_seconds", policy.hours, "training")
SIZE = Rule("policy.must_fit", policy.size, "hardware")
HOUR = 3600.0
GIB = 2**30


def span(low: float, expected: float, high: float, unit: float = 1.0) -> Interval:
    return Interval(low * unit, expected * unit, high * unit)


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        (12.0, Verdict.PASS),  # the upper end is the limit
        (11.99, Verdict.UNDECIDED),
        (8.4, Verdict.UNDECIDED),
        (7.0, Verdict.UNDECIDED),  # what is expected is beyond it, the lower end is not
        (6.1, Verdict.UNDECIDED),  # the lower end is the limit
        (6.09, Verdict.FAIL),
    ],
)
def test_a_limit_passes_above_the_range_fails_below_it_and_is_undecided_inside(limit, verdict):
    assert policy.judge(span(6.1, 8.4, 12.0), limit) is verdict


@given(st.lists(st.floats(0, 1e12), min_size=3, max_size=3), st.floats(0, 1e12), st.floats(0, 1e12))
def test_a_looser_limit_is_never_judged_worse(ends, one, other):
    order = [Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS]
    measured = span(*sorted(ends))
    tight, loose = sorted((one, other))
    assert order.index(policy.judge(measured, tight)) <= order.index(policy.judge(measured, loose))


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (8, "8.4 h expected (6.1 h to 12 h), limit 8 h: may exceed it by up to 50 %"),
        (16, "8.4 h expected (6.1 h to 12 h), limit 16 h: 25 % to spare"),
        (6, "8.4 h expected (6.1 h to 12 h), limit 6 h: exceeds it by at least 1.7 %, probably 40 %"),
        (0.2, "8.4 h expected (6.1 h to 12 h), limit 12 min: exceeds it by at least 29.5 times the limit, probably 41"),
        (0, "8.4 h expected (6.1 h to 12 h), limit 0 s: exceeds it"),
    ],
)
def test_the_help_says_by_how_much(limit, text):
    found = policy.within(HOURS, span(6.1, 8.4, 12.0, HOUR), limit * HOUR, "")
    assert found.help.startswith(text)
    assert text.endswith("41") or found.help == text


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (5e-324, "exceeds it by at least over a billion times the limit"),
        (1e-3, "exceeds it by at least 5,999 times the limit, probably 7,999 times the limit"),
        (1e9, "over 99 % to spare"),
        (-0.0, "limit 0 kWh: exceeds it"),
    ],
)
def test_a_distance_is_a_number_that_people_can_read(limit, text):
    found = policy.within(
        Rule("policy.max_energy_kwh", policy.amount_of("kWh"), "hardware"), span(6, 8, 9, 1), limit, ""
    )
    assert text in found.help
    assert "inf" not in found.help


def test_a_number_that_there_is_not_is_undecided_and_says_what_to_give():
    found = policy.within(HOURS, None, 5.0, "give dataset_profile.examples")
    assert (found.verdict, found.measured, found.help) == (Verdict.UNDECIDED, None, "give dataset_profile.examples")


@pytest.mark.parametrize(
    ("peak", "fit", "verdict"),
    [
        (span(10, 12, 20), FitVerdict.FITS, Verdict.PASS),
        (span(20, 23, 26), FitVerdict.TIGHT, Verdict.UNDECIDED),
        (span(23, 26, 30), FitVerdict.DOES_NOT_FIT, Verdict.UNDECIDED),
        (span(25, 26, 30), FitVerdict.DOES_NOT_FIT, Verdict.FAIL),
        (span(25, 26, 30), FitVerdict.UNSPECIFIED, Verdict.UNDECIDED),
    ],
)
def test_what_must_fit_fails_only_where_even_the_lower_end_does_not(peak, fit, verdict):
    usable = 0 if fit is FitVerdict.UNSPECIFIED else 24 * GIB
    found = policy.fits(SIZE, peak.scaled(GIB), usable, fit)
    assert found.verdict is verdict
    assert "GiB" in found.help


@pytest.mark.parametrize(
    ("memory", "time", "lowest", "verdict"),
    [
        (3, 3, 3, Verdict.PASS),
        (3, 2, 2, Verdict.PASS),
        (3, 1, 2, Verdict.FAIL),
        (1, 3, 2, Verdict.FAIL),
        (3, 0, 1, Verdict.UNDECIDED),
    ],
)
def test_confidence_is_the_lower_of_memory_and_time(memory, time, lowest, verdict):
    found = policy.confident(Rule("policy.min_confidence", str, "model"), memory, time, lowest)
    assert found.verdict is verdict
    assert policy.LEVELS[lowest] in found.help


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([Verdict.PASS, Verdict.PASS], Verdict.PASS),
        ([Verdict.PASS, Verdict.UNDECIDED], Verdict.UNDECIDED),
        ([Verdict.UNDECIDED, Verdict.FAIL, Verdict.PASS], Verdict.FAIL),
    ],
)
def test_one_failure_fails_the_plan(verdicts, whole):
    assert policy.overall(Finding(HOURS, verdict, None, 1.0, "") for verdict in verdicts) is whole


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (policy.hours, 40, "40 s"),
        (policy.hours, 720, "12 min"),
        (policy.hours, 3_600_000 * 5, "5,000 h"),
        (policy.size, 0.05 * GIB, "51.2 MiB"),
        (policy.size, 1.5 * GIB, "1.50 GiB"),
        (policy.money("EUR"), 0, "0.00 EUR"),
        (policy.money("EUR"), 0.0042, "0.0042 EUR"),
        (policy.money("EUR"), 12345.678, "12,345.68 EUR"),
    ],
)
def test_numbers_are_written_with_their_unit(write, value, text):
    assert write(value) == text
