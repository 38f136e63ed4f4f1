# SPDX-License-Identifier: Apache-2.0
"""What a change of one input would do: each claim is checked by asking again with that change."""

from typing import Any

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.estimator.values import Estimate, Evidence, FitState
from finetree_recommender.explain.counterfactuals import Counterfactual
from finetree_recommender.explain.thresholds import NOT_ESTIMATED
from finetree_recommender.method import Method
from finetree_recommender.recommend import Recommendation, conclude
from finetree_recommender.rule_pack.pack import builtin_packs, parse
from finetree_runtime.money import to_float, to_money
from google.protobuf import json_format
from google.type import money_pb2


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


GIB = 2**30
ALL_FIT = {"full": "FITS", "lora": "FITS", "qlora": "FITS", "prefix": "FITS", "adapter": "FITS"}
STEPS = {"GB": 0.01, "USD a month": 0.01, "USD a run": 0.01}
QUESTIONS = {
    "quality": [f"QUALITY_NEED_{word}" for word in ("MAXIMUM", "CRITICAL", "IMPORTANT", "ACCEPTABLE", "EXPERIMENTAL")],
    "time": [f"TIME_NEED_{word}" for word in ("DAYS", "HOURS", "MINUTES")],
    "tasks": [f"TASK_VARIETY_{word}" for word in ("SINGLE", "SIMILAR", "MANY_DIFFERENT")],
    "use_case": [f"USE_CASE_{word}" for word in ("ENTERPRISE", "STARTUP", "RESEARCH")],
    "experience": [f"EXPERIENCE_{word}" for word in ("BEGINNER", "INTERMEDIATE", "EXPERT")],
}


def gpu(gb):
    return {"unknown_accelerator": {"marketed_memory_gb": gb}}


REQUESTS = [
    {},
    {"hardware": gpu(24)},
    {"hardware": gpu(80), "budget_per_month": usd(3000), "quality": "QUALITY_NEED_MAXIMUM"},
    {"hardware": gpu(16), "time": "TIME_NEED_MINUTES", "budget_per_month": usd(75)},
    {"hardware": gpu(8), "budget_per_run": usd(3), "runs_per_month": 20, "task_count": 1},
    {"max_duration": "5400s", "dataset_profile": {"examples": 3000}, "quality": "QUALITY_NEED_CRITICAL"},
    {"budget_per_run": usd(5), "dataset_profile": {"examples": 3000}, "hardware": gpu(24), "time": "TIME_NEED_HOURS"},
    {"task_count": 2, "tasks": "TASK_VARIETY_MANY_DIFFERENT", "hardware": gpu(48)},
]


def changed(request: dict[str, Any], path: str, value: float) -> dict[str, Any]:
    """The request with another number at a threshold's field."""
    if path == "hardware":
        return request | {"hardware": gpu(value)}
    if path == "dataset_profile.examples":
        return request | {"dataset_profile": {"examples": int(value)}}
    if path == "max_duration":
        return request | {"max_duration": f"{value:g}s"}
    return request | {path: int(value) if path == "task_count" else usd(value)}


def present(request: dict[str, Any], path: str) -> float:
    if path == "hardware":
        return float(request["hardware"]["unknown_accelerator"]["marketed_memory_gb"])
    if path == "dataset_profile.examples":
        return float(request["dataset_profile"]["examples"])
    value = request[path]
    if isinstance(value, dict):
        return to_float(json_format.ParseDict(value, money_pb2.Money()))
    return float(value.rstrip("s")) if isinstance(value, str) else float(value)


@pytest.fixture
def ask(pack, read):
    """The answer to a request, by the rules alone."""
    return lambda request: conclude(
        pack, read(parameters=7_000_000_000, **request), None, missing="ESTIMATOR_UNAVAILABLE"
    )


CROSSING = b"""
id: crossing
date: "2026-11-26"
title: LoRA is cheaper than QLoRA from some thousand rows on
extends: evidence-1
quote_times: true
sources: {house: {kind: MEASURED, source: "Runs of the house", date: "2026-11"}}
times:
  examples: [100, 1000, 10000, 100000]
  source: "house: hours"
  hours:
    FULL: [8, 24, 120, 720]
    LORA: [1, 2, 8, 72]
    QLORA: [0.5, 3, 20, 240]
    PREFIX: [0.5, 1, 2, 24]
    ADAPTER: [1, 3, 10, 96]
  usd_per_hour: {FULL: 2.5, LORA: 1.5, QLORA: 0.8, PREFIX: 0.4, ADAPTER: 1.5}
  price_source: "house: prices"
"""


@pytest.fixture
def by_evidence(read):
    """The answer to a request by the rules of evidence-1, or of a pack over it."""

    def answer(request: dict[str, Any], text: bytes = b"") -> Recommendation:
        packs = builtin_packs()
        policy = parse(text, packs) if text else packs["evidence-1"]
        return conclude(policy, read(**request).reread(policy), None, missing="ESTIMATOR_UNAVAILABLE")

    return answer


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
@pytest.mark.parametrize("asked", ["ask", "by_evidence"])
def test_a_threshold_is_where_the_verdict_changes(asked, request_, request):
    """At the threshold the verdict is the one of the counterfactual; one step nearer it is another."""
    ask = request.getfixturevalue(asked)
    answer = ask(request_)
    for flip in (flip for flip in answer.counterfactuals if flip.threshold is not None):
        step = STEPS.get(flip.unit, 1)
        nearer = flip.threshold - step if flip.threshold > present(request_, flip.field_path) else flip.threshold + step
        at = ask(changed(request_, flip.field_path, flip.threshold)).decision.method
        beside = ask(changed(request_, flip.field_path, round(nearer, 2))).decision.method
        assert at is flip.method, flip
        assert beside is not flip.method, flip


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_exactly_the_answers_that_change_the_verdict_are_counterfactuals(ask, request_):
    answer = ask(request_)
    for name, values in QUESTIONS.items():
        if name == "time" and "max_duration" in request_:
            continue
        reached = {ask(request_ | {name: value}).decision.method for value in values}
        named = {flip.method for flip in answer.counterfactuals if flip.field_path == name}
        assert named == reached - {answer.decision.method, None}


@pytest.mark.parametrize("rows", [100, 1000, 4000, 90_000])
def test_over_every_budget_the_rows_at_which_another_method_is_cheapest_are_found(by_evidence, rows):
    fields = {"hardware": gpu(24), "budget_per_run": usd(0), "serving": ["SERVING_TARGET_VLLM"]}
    answer = by_evidence(fields | {"dataset_profile": {"examples": rows}}, CROSSING)
    found = [flip for flip in answer.counterfactuals if flip.field_path == "dataset_profile.examples"]
    # Outside of the table nobody knows what a run costs.
    assert [flip for flip in found if 1000 < flip.threshold < 10_000]
    for flip in found:
        nearer = flip.threshold - (1 if flip.threshold > rows else -1)
        for examples, taken in ((flip.threshold, True), (nearer, False)):
            asked = by_evidence(fields | {"dataset_profile": {"examples": int(examples)}}, CROSSING)
            assert (asked.decision.method is flip.method) is taken, flip


def flips(answer) -> dict[tuple[str, Method | None], Counterfactual]:
    return {(flip.field_path, flip.method): flip for flip in answer.counterfactuals}


def test_memory_thresholds_allow_for_five_percent(ask):
    found = flips(ask({"hardware": gpu(24)}))
    qlora, prefix = found["hardware", Method.QLORA], found["hardware", Method.PREFIX]
    assert (qlora.threshold, qlora.unit) == (22.85, "GB")
    assert prefix.threshold == 15.23
    # Below 8 GB the playbook says upgrade: no method.
    assert found["hardware", None].threshold == 7.61
    assert "16 GB" in qlora.to_value
    assert NOT_ESTIMATED in qlora.to_value
    assert found["tasks", Method.ADAPTER].to_value == "many different"


def test_for_other_hardware_the_packs_rules_decide(pack, read, evidence):
    # What is known of the memory on 8 GB says nothing of 16 GB.
    answer = conclude(pack, read(hardware=gpu(8)), evidence(prefix="FITS"))
    assert ("hardware", Method.QLORA) in flips(answer)


def test_a_time_limit_that_every_method_breaks_changes_nothing(pack, read, evidence):
    # Every method takes 100 s here: a shorter time limit is broken by all, and changes nothing.
    request = {"hardware": gpu(24), "max_duration": "60s", "time": "TIME_NEED_HOURS"}
    answer = conclude(pack, read(**request), evidence(**ALL_FIT))
    assert answer.decision.method is Method.LORA
    assert answer.cautions[0].code == "OVER_MAX_DURATION"
    assert "max_duration" not in {flip.field_path for flip in answer.counterfactuals}


def test_unknown_inputs_that_matter_come_first(ask):
    gaps = ask({}).gaps
    assert [gap.field_path for gap in gaps][:2] == ["hardware", "time"]
    assert all(0 < gap.share <= 1 for gap in gaps)
    assert sorted((gap.share for gap in gaps), reverse=True) == [gap.share for gap in gaps]
    known = ask({"hardware": gpu(24), "time": "TIME_NEED_HOURS"}).gaps
    assert not {"hardware", "time"} & {gap.field_path for gap in known}


def test_robustness_is_the_share_of_neighbors_that_keep_the_verdict(ask):
    firm = ask({"hardware": gpu(24), "budget_per_month": usd(300), "quality": "QUALITY_NEED_CRITICAL"}).confidence
    loose = ask({}).confidence
    assert 0 <= loose.robustness < firm.robustness <= 1
    assert loose.abstained
    assert not firm.abstained
    assert 0 <= loose.score < firm.score <= 1
    assert "points" in firm.definition


def too_large(needs, has):
    """Evidence that nothing fits into `has` GiB; `needs` are GiB by method."""
    rows = {}
    for method, gib in needs.items():
        peak = evidence_pb2.Interval(low=gib * GIB, expected=gib * GIB, high=gib * GIB)
        rows[method, 0] = Estimate(FitState.DOES_NOT_FIT, peak, int(has * GIB), None, None, 100)
    return Evidence(rows, evidence_pb2.Revision(), None)


def test_no_class_of_gpus_is_named_for_a_method_that_the_estimate_shows_to_need_more(pack, read):
    """70B: LoRA and full fine-tuning need more than 80 GiB at their smallest, QLoRA more than 24; by class 80 GB do."""
    needs = {Method.QLORA: 42, Method.LORA: 140, Method.ADAPTER: 140, Method.PREFIX: 180, Method.FULL: 410}
    answer = conclude(pack, read(parameters=70_000_000_000, hardware=gpu(24)), too_large(needs, 23.5))
    named = {(flip.threshold, flip.method) for flip in answer.counterfactuals if flip.field_path == "hardware"}
    assert named == {(42, Method.QLORA), (140, Method.LORA)}


def test_what_is_too_large_here_is_not_too_large_for_a_gpu_that_has_the_room(pack, read):
    answer = conclude(pack, read(hardware=gpu(8)), too_large(dict.fromkeys(Method, 18), 7.6))
    named = {flip.method: flip.to_value for flip in answer.counterfactuals if flip.field_path == "hardware"}
    assert named[Method.LORA] == f"a 24 GB GPU {NOT_ESTIMATED}"
    assert named[Method.QLORA] == f"a GPU with 18 GB {NOT_ESTIMATED}"


def test_what_fits_here_is_not_doubted_where_there_is_more_memory(read, evidence):
    """evidence-1's classes are those of 7B models: of a small one on 12 GB they would say QLoRA from 16 GB on."""
    policy = builtin_packs()["evidence-1"]
    answer = conclude(policy, read(hardware=gpu(12)).reread(policy), evidence(**ALL_FIT))
    assert answer.decision.method is Method.LORA
    more = [flip for flip in answer.counterfactuals if flip.field_path == "hardware" and flip.threshold > 12]
    assert not more


@pytest.mark.parametrize(("needs", "named"), [(18.04, "18.1"), (10.96, "10.9")])
def test_memory_is_rounded_away_from_what_is_at_hand(pack, read, needs, named):
    """A GPU with the memory that is named has the verdict that is named with it."""
    evidence_pack = builtin_packs()["evidence-1"]
    inputs = read(hardware=gpu(12)).reread(evidence_pack)
    fits = needs < 12
    rows = {}
    for method in Method:
        peak = evidence_pb2.Interval(low=needs * GIB, expected=needs * GIB, high=needs * GIB)
        state = FitState.FITS if fits else FitState.DOES_NOT_FIT
        rows[method, 0] = Estimate(state, peak, int(12 * GIB), None, None, 100)
    answer = conclude(evidence_pack, inputs, Evidence(rows, evidence_pb2.Revision(), None))
    told = [flip.to_value for flip in answer.counterfactuals if flip.field_path == "hardware"]
    assert f"a GPU with {named} GB {NOT_ESTIMATED}" in told
