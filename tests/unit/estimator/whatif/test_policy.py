# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.estimator.v1 import check_plan_pb2
from finetree_estimator.intervals import Interval
from finetree_estimator.memory.fit import Verdict as FitVerdict
from finetree_estimator.whatif import policy
from finetree_estimator.whatif.policy import Finding, Limit, Metric, Severity, Verdict
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

DURATION, FIT = Limit(Metric.DURATION_SECONDS), Limit(Metric.FIT)
HOUR = 3600.0
GIB = 2**30


def span(low: float, expected: float, high: float, unit: float = 1.0) -> Interval:
    return Interval(low * unit, expected * unit, high * unit)


def within(metric: Metric, measured: Interval | None, bound: float, missing: str = "") -> Finding:
    return policy.within(Limit(metric, bound), measured, setting="training", missing=missing)


def test_a_policy_is_read_in_its_order_with_the_place_of_each_limit():
    limits = [
        {"metric": "POLICY_METRIC_COST", "max_money": {"units": 2, "nanos": 500_000_000, "currency_code": "EUR"}},
        {"metric": "POLICY_METRIC_FIT", "severity": "SEVERITY_WARNING"},
        {"metric": "POLICY_METRIC_CONFIDENCE", "min_confidence": "CONFIDENCE_LEVEL_HIGH"},
        {"metric": "POLICY_METRIC_DEVICE_BYTES", "max": 1024, "severity": "SEVERITY_INFO"},
    ]
    found = policy.read_limits(json_format.ParseDict({"limits": limits}, check_plan_pb2.PlanPolicy()))

    assert found == (
        Limit(Metric.COST, 2.5, "EUR", Severity.ERROR, "policy.limits[0]"),
        Limit(Metric.FIT, 0.0, "", Severity.WARNING, "policy.limits[1]"),
        Limit(Metric.CONFIDENCE, 3.0, "", Severity.ERROR, "policy.limits[2]"),
        Limit(Metric.DEVICE_BYTES, 1024.0, "", Severity.INFO, "policy.limits[3]"),
    )


def test_each_metric_and_severity_of_the_contract_is_known():
    metrics = {name.removeprefix("POLICY_METRIC_") for name, value in check_plan_pb2.PolicyMetric.items() if value}

    assert {metric.name for metric in Metric} == metrics
    assert [metric.value for metric in Metric] == [metric.name.lower() for metric in Metric]


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [
        (12.0, Verdict.PASS),  # the upper end is the limit
        (11.99, Verdict.UNDECIDED),
        (8.4, Verdict.UNDECIDED),
        (7.0, Verdict.UNDECIDED),  # what is expected is beyond it, the lower end is not
        (6.1, Verdict.UNDECIDED),  # the lower end is the limit
        (6.09, Verdict.FAIL),
    ],
)
def test_a_limit_passes_above_the_range_fails_below_it_and_is_undecided_inside(bound, verdict):
    assert policy.judge(span(6.1, 8.4, 12.0), bound) is verdict


@given(st.lists(st.floats(0, 1e12), min_size=3, max_size=3), st.floats(0, 1e12), st.floats(0, 1e12))
def test_a_looser_limit_is_never_judged_worse(ends, one, other):
    order = [Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS]
    measured = span(*sorted(ends))
    tight, loose = sorted((one, other))
    assert order.index(policy.judge(measured, tight)) <= order.index(policy.judge(measured, loose))


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (8, "8.4 h expected (6.1 h to 12 h), limit 8 h: possibly exceeded, by at most 50 %"),
        (16, "8.4 h expected (6.1 h to 12 h), limit 16 h: 25 % below it"),
        (6, "8.4 h expected (6.1 h to 12 h), limit 6 h: exceeded by at least 1.7 %, probably by 40 %"),
        (
            0.2,
            "8.4 h expected (6.1 h to 12 h), limit 12 min: exceeded by at least 29.5 times the limit, probably by 41",
        ),
        (0, "8.4 h expected (6.1 h to 12 h), limit 0 s: exceeded"),
    ],
)
def test_the_message_says_by_how_much(bound, text):
    found = within(Metric.DURATION_SECONDS, span(6.1, 8.4, 12.0, HOUR), bound * HOUR)
    assert found.message.startswith(text)
    assert text.endswith("41") or found.message == text


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (5e-324, "exceeded by at least a billion times the limit"),
        (1e-3, "exceeded by at least 5,999 times the limit, probably by 7,999 times the limit"),
        (1e9, "over 99 % below it"),
        (0.0, "limit 0 kWh: exceeded"),
    ],
)
def test_a_distance_is_a_number_that_people_can_read(bound, text):
    found = within(Metric.ENERGY_KWH, span(6, 8, 9), bound)
    assert text in found.message
    assert "inf" not in found.message


def test_a_number_that_there_is_not_is_undecided_and_says_what_to_give():
    found = within(Metric.DURATION_SECONDS, None, 5.0, "give dataset.profile.examples")
    assert (found.verdict, found.measured, found.bound) == (Verdict.UNDECIDED, None, 5.0)
    assert found.message == "give dataset.profile.examples"


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
    found = policy.fits(FIT, peak.scaled(GIB), usable, fit_verdict=fit)
    assert found.verdict is verdict
    assert found.bound == (usable or None)
    assert "GiB" in found.message


@pytest.mark.parametrize(
    ("memory", "time", "lowest", "verdict"),
    [(3, 3, 3, Verdict.PASS), (3, 2, 2, Verdict.PASS), (3, 1, 2, Verdict.FAIL), (1, 3, 2, Verdict.FAIL)],
)
def test_confidence_is_the_lower_of_memory_and_time(memory, time, lowest, verdict):
    found = policy.confident(Limit(Metric.CONFIDENCE, lowest), memory, time)
    assert found.verdict is verdict
    assert policy.LEVELS[lowest] in found.message


PASS, FAIL, UNDECIDED, WARN = Verdict.PASS, Verdict.FAIL, Verdict.UNDECIDED, Verdict.WARN


@pytest.mark.parametrize(
    ("errors", "warnings", "whole"),
    [
        ([PASS, PASS], [], PASS),
        ([PASS, UNDECIDED], [], UNDECIDED),
        ([UNDECIDED, FAIL, PASS], [], FAIL),
        ([PASS], [FAIL], WARN),
        ([], [FAIL, PASS], WARN),
        ([], [UNDECIDED], PASS),
        ([UNDECIDED], [FAIL], UNDECIDED),
        ([FAIL], [FAIL], FAIL),
    ],
)
def test_errors_decide_before_warnings(errors, warnings, whole):
    limits = [(Limit(Metric.ENERGY_KWH), each) for each in errors]
    limits += [(Limit(Metric.FIT, severity=Severity.WARNING), each) for each in warnings]

    assert policy.overall(Finding(limit, verdict, None, 1.0, "", "") for limit, verdict in limits) is whole


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (policy.duration, 40, "40 s"),
        (policy.duration, 720, "12 min"),
        (policy.duration, 3_600_000 * 5, "5,000 h"),
        (policy.size, 0.05 * GIB, "51.2 MiB"),
        (policy.size, 1.5 * GIB, "1.50 GiB"),
        (Limit(Metric.COST, currency="EUR").write, 0, "0.00 EUR"),
        (Limit(Metric.COST, currency="EUR").write, 0.0042, "0.0042 EUR"),
        (Limit(Metric.COST, currency="EUR").write, 12345.678, "12,345.68 EUR"),
    ],
)
def test_numbers_are_written_with_their_unit(write, value, text):
    assert write(value) == text
