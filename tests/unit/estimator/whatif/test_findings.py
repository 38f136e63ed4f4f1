# SPDX-License-Identifier: Apache-2.0
from datetime import date

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import check_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.intervals import Interval
from finetree_estimator.memory.fit import Verdict as FitVerdict
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import findings
from finetree_estimator.whatif.fallbacks import Answer, answer_request
from finetree_estimator.whatif.findings import Finding, Verdict
from finetree_estimator.whatif.policy import Level, Limit, Metric, Policy, Severity, Undecided, with_base
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

DURATION, FIT = Limit(Metric.DURATION_SECONDS), Limit(Metric.FIT)
HOUR = 3600.0
GIB = 2**30
KNOWLEDGE = Knowledge(price_book.packaged())


def span(low: float, expected: float, high: float, unit: float = 1.0) -> Interval:
    return Interval(low * unit, expected * unit, high * unit)


def within(metric: Metric, measured: Interval, bound: float) -> Finding:
    return findings.within(Limit(metric, bound), measured, setting="training")


def answer(**parts: object) -> Answer:
    spec = {"model": {"name": "llama-3.2-3b"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}} | parts
    document = {"spec": spec, "dataset_profile": {"examples": 1000}}
    return answer_request(json_format.ParseDict(document, estimate_pb2.EstimateRunRequest()), KNOWLEDGE)


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
    assert findings.judge(span(6.1, 8.4, 12.0), bound) is verdict


@given(st.lists(st.floats(0, 1e12), min_size=3, max_size=3), st.floats(0, 1e12), st.floats(0, 1e12))
def test_a_looser_limit_is_never_judged_worse(ends, one, other):
    order = [Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS]
    measured = span(*sorted(ends))
    tight, loose = sorted((one, other))
    assert order.index(findings.judge(measured, tight)) <= order.index(findings.judge(measured, loose))


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
    found = findings.fits(FIT, peak.scaled(GIB), usable, fit_verdict=fit)
    assert found.verdict is verdict
    assert found.bound == (usable or None)
    assert "GiB" in found.message


@pytest.mark.parametrize(
    ("memory", "time", "lowest", "verdict"),
    [(3, 3, 3, Verdict.PASS), (3, 2, 2, Verdict.PASS), (3, 1, 2, Verdict.FAIL), (1, 3, 2, Verdict.FAIL)],
)
def test_confidence_is_the_lower_of_memory_and_time(memory, time, lowest, verdict):
    found = findings.confident(Limit(Metric.CONFIDENCE, lowest), memory, time)
    assert found.verdict is verdict
    assert ("", "low", "medium", "high")[lowest] in found.message


PASS, FAIL, UNDECIDED, WARN, WAIVED = Verdict.PASS, Verdict.FAIL, Verdict.UNDECIDED, Verdict.WARN, Verdict.WAIVED


@pytest.mark.parametrize(
    ("errors", "warnings", "undecided", "whole"),
    [
        ([PASS, PASS], [], "FAIL", PASS),
        ([PASS, UNDECIDED], [], "FAIL", UNDECIDED),
        ([PASS, UNDECIDED], [], "WARN", WARN),
        ([PASS, UNDECIDED], [], "PASS", PASS),
        ([UNDECIDED, FAIL, PASS], [], "FAIL", FAIL),
        ([UNDECIDED, FAIL, PASS], [], "PASS", FAIL),
        ([PASS], [FAIL], "FAIL", WARN),
        ([], [FAIL, PASS], "FAIL", WARN),
        ([], [UNDECIDED], "FAIL", WARN),
        ([], [UNDECIDED], "PASS", PASS),
        ([UNDECIDED], [FAIL], "FAIL", UNDECIDED),
        ([FAIL], [FAIL], "FAIL", FAIL),
        ([WAIVED, PASS], [], "FAIL", WAIVED),
        ([WAIVED], [FAIL], "FAIL", WARN),
        ([WAIVED, UNDECIDED], [], "FAIL", UNDECIDED),
    ],
)
def test_the_whole_is_the_worst_of_what_each_amounts_to(errors, warnings, undecided, whole):
    limits = [(Limit(Metric.ENERGY_KWH), each) for each in errors]
    limits += [(Limit(Metric.FIT, severity=Severity.WARNING), each) for each in warnings]
    found = [Finding(limit=limit, verdict=verdict, setting="", message="") for limit, verdict in limits]

    assert findings.overall(found, Undecided[undecided]) is whole


@pytest.mark.parametrize(
    ("limit", "parts", "verdict", "text"),
    [
        ({"metric": Metric.METHOD, "allowed": ("lora", "QLoRA")}, {}, PASS, "lora is allowed"),
        ({"metric": Metric.METHOD, "allowed": ("qlora",)}, {}, FAIL, "lora is not allowed; allowed: qlora"),
        ({"metric": Metric.METHOD, "denied": ("full",)}, {}, PASS, "lora is not denied"),
        ({"metric": Metric.MODEL, "denied": ("meta-llama/*",)}, {}, FAIL, "llama-3.2-3b is denied by 'meta-llama/*'"),
        ({"metric": Metric.MODEL, "allowed": ("llama-3.?-3b",)}, {}, PASS, "llama-3.2-3b is allowed"),
        ({"metric": Metric.MODEL, "allowed": ("llama-[3].2-3b",)}, {}, FAIL, "is not allowed"),
        ({"metric": Metric.MODEL, "allowed": ("llama*",), "denied": ("*3b",)}, {}, FAIL, "is denied by '*3b'"),
        ({"metric": Metric.MODEL_LICENSE, "allowed": ("apache-2.0", "mit")}, {}, FAIL, "llama3.2 is not allowed"),
        ({"metric": Metric.PROVIDER, "allowed": ("owned",)}, {}, FAIL, "is not allowed; allowed: owned"),
        ({"metric": Metric.PROVIDER, "allowed": ("owned",)}, {"ownership": {"owned": {}}}, PASS, "owned is allowed"),
        (
            {"metric": Metric.PROVIDER, "allowed": ("aws",)},
            {"hardware": {"cpu": {"cores": 4}}},
            UNDECIDED,
            "without a price",
        ),
    ],
)
def test_names_are_judged_by_patterns_and_a_denied_one_never_passes(limit, parts, verdict, text):
    found = findings.judge_limit(Limit(**limit), answer(**parts))
    assert found.verdict is verdict
    assert text in found.message
    assert (found.name == "") == (verdict is UNDECIDED)


SHAPE = {
    "hidden_size": 576,
    "layers": 30,
    "intermediate_size": 1536,
    "attention_heads": 9,
    "vocab_size": 49152,
    "gated_mlp": True,
}


@pytest.mark.parametrize(
    ("metric", "advice"), [(Metric.MODEL, "give model.name"), (Metric.MODEL_LICENSE, "outside of the catalog")]
)
def test_a_model_without_a_name_is_neither_allowed_nor_denied(metric, advice):
    for lists in ({"allowed": ("*",)}, {"denied": ("none",)}):
        found = findings.judge_limit(Limit(metric, **lists), answer(model={"shape": SHAPE}))
        assert (found.verdict, found.name, found.setting) == (UNDECIDED, "", "model")
        assert advice in found.message


@pytest.mark.parametrize(
    ("base", "bound", "verdict", "text"),
    [
        (span(5, 8, 12, HOUR), 8 * 1.2 * HOUR, PASS, "8 h before, 8.4 h expected: +5 %, limit +20 %"),
        (span(5, 6, 12, HOUR), 6 * 1.2 * HOUR, FAIL, "6 h before, 8.4 h expected: +40 %, limit +20 %"),
        (span(0, 0, 0), 0, FAIL, "0 s before, 8.4 h expected, limit +20 %"),
        (None, None, UNDECIDED, "unknown in the base run"),
    ],
)
def test_an_increase_compares_the_expected_numbers_of_two_runs(base, bound, verdict, text):
    limit = with_base(Limit(Metric.DURATION_SECONDS, None, increase=0.2), base, currency="")
    found = findings.within(limit, span(6.1, 8.4, 12.0, HOUR), setting="training")
    assert (found.verdict, found.bound) == (verdict, pytest.approx(bound) if bound else bound)
    assert text in found.message


def test_an_increase_without_a_base_run_passes_and_says_so():
    limit = Limit(Metric.DURATION_SECONDS, None, increase=0.2)
    found = findings.within(limit, span(6.1, 8.4, 12.0, HOUR), setting="training")
    assert (found.verdict, limit.rule_id) == (PASS, "duration_seconds_increase")
    assert "no base run" in found.message


def test_amounts_of_two_currencies_are_never_compared():
    limit = with_base(Limit(Metric.COST, None, increase=0.2), span(1, 2, 3), currency="EUR")
    found = findings.judge_limit(limit, answer())
    assert (found.verdict, found.measured) == (UNDECIDED, None)
    assert "EUR" in found.message
    assert "USD" in found.message


WAIVER = check_pb2.Waiver(rule_id="duration_seconds", owner="ml-platform", reason="migration", until="2026-12-31")
OVERRIDE = check_pb2.Override(rule_id="duration_seconds", by="ada", reason="release day")


def lifted(bound: float, day: str = "2026-12-31", level: Level = Level.HARD, *, waiver=None, override=None) -> Finding:
    policy = Policy(
        limits=(Limit(Metric.DURATION_SECONDS, bound, level=level),),
        waivers={waiver.rule_id: waiver} if waiver is not None else None,
        overrides={override.rule_id: override} if override is not None else None,
        today=date.fromisoformat(day),
    )
    (found,) = findings.findings(policy, answer())
    return found


def test_a_waiver_holds_to_its_last_day_and_then_names_itself():
    held, expired = lifted(1, waiver=WAIVER), lifted(1, "2027-01-01", waiver=WAIVER)
    assert (held.verdict, held.waiver) == (WAIVED, WAIVER)
    assert (expired.verdict, expired.waiver) == (FAIL, WAIVER)
    assert expired.message.endswith("; the waiver by ml-platform expired after 2026-12-31")
    undecided = lifted(answer().estimate.times.total.expected, waiver=WAIVER)
    assert undecided.verdict is WAIVED
    unneeded = lifted(1e9, waiver=WAIVER)
    assert (unneeded.verdict, unneeded.waiver) == (PASS, None)


@pytest.mark.parametrize(
    ("level", "verdict", "text"),
    [
        (Level.OVERRIDABLE, WAIVED, "probably by"),
        (Level.HARD, FAIL, "; the override by ada is refused: the limit is hard"),
        (Level.ADVISORY, FAIL, "; the override by ada is not needed: the limit is advisory"),
    ],
)
def test_an_override_lifts_an_overridable_limit_alone(level, verdict, text):
    found = lifted(1, level=level, override=OVERRIDE)
    assert (found.verdict, found.override) == (verdict, OVERRIDE)
    assert text in found.message


def test_an_expired_waiver_does_not_stand_in_the_way_of_an_override():
    found = lifted(1, "2027-01-01", Level.OVERRIDABLE, waiver=WAIVER, override=OVERRIDE)
    assert (found.verdict, found.override, found.waiver) == (WAIVED, OVERRIDE, None)
