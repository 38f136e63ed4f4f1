# SPDX-License-Identifier: Apache-2.0
"""Assessment of the five methods: standing, reasons, votes, figures and the frontier."""

from dataclasses import replace

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.explain import cautions
from finetree_recommender.explain.confidence import Level
from finetree_recommender.explain.reasons import Standing
from finetree_recommender.method import Method
from finetree_recommender.recommend import conclude
from finetree_recommender.rule_pack.pack import builtin_packs

GPU16 = {"unknown_accelerator": {"marketed_memory_gb": 16}}
GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
ALL_ANSWERED = {
    "hardware": GPU24,
    "dataset_profile": {"examples": 5000},
    "budget_per_month": {"currency_code": "USD", "units": 300},
    "quality": "QUALITY_NEED_IMPORTANT",
    "time": "TIME_NEED_HOURS",
    "tasks": "TASK_VARIETY_SIMILAR",
}


def codes(answer, method):
    return [reason.code for item in answer.methods if item.method is method for reason in item.reasons]


@pytest.fixture(scope="module")
def answer(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS", adapter="FITS", prefix="FITS")
    return conclude(pack, read(**ALL_ANSWERED), found)


def test_all_five_methods_are_listed_with_the_reason_of_each(answer):
    assert answer.methods[0].method is Method.LORA
    assert {item.method for item in answer.methods} == set(Method)
    assert all(item.reasons for item in answer.methods)
    assert codes(answer, Method.LORA) == ["MOST_VOTES"]
    assert codes(answer, Method.QLORA)[:2] == ["OUTVOTED", "CAUTION_QLORA_MEMORY"]
    assert codes(answer, Method.FULL)[:2] == ["DOES_NOT_FIT", "GPU_TOO_SMALL"]
    outvoted = next(item for item in answer.methods if item.method is Method.QLORA).reasons[0]
    assert all(fact in outvoted.message for fact in ("2 votes", "LoRA", "5"))


def test_room_for_a_16_bit_base_is_not_claimed_where_the_estimate_shows_that_it_does_not_fit(pack, read, evidence):
    tight = conclude(pack, read(**ALL_ANSWERED), evidence(qlora="FITS"))
    assert tight.decision.method is Method.QLORA
    assert "CAUTION_QLORA_MEMORY" not in codes(tight, Method.QLORA)
    assert "CAUTION_QLORA_MEMORY" not in [caution.code for caution in tight.cautions]
    without = conclude(pack, read(**ALL_ANSWERED), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    assert "CAUTION_QLORA_MEMORY" in codes(without, Method.QLORA)


def test_votes_are_listed_by_question(answer):
    by_method = {item.method: dict(item.votes) for item in answer.methods}
    assert by_method[Method.LORA] == dict.fromkeys(["q1_memory", "q2_budget", "q3_quality", "q4_time", "q5_tasks"], 1)
    assert by_method[Method.QLORA] == {"q3_quality": 1, "q4_time": 1}


def test_a_method_that_fits_against_a_rule_has_that_standing(pack, read, evidence):
    answer = conclude(pack, read(hardware=GPU16), evidence(lora="FITS", qlora="FITS", prefix="FITS"))
    standings = {item.method: item.standing for item in answer.methods}
    assert standings[Method.QLORA] is Standing.RECOMMENDED
    assert standings[Method.LORA] is Standing.FITS_AGAINST_RULE
    assert standings[Method.PREFIX] is Standing.POSSIBLE
    assert standings[Method.FULL] is Standing.REJECTED
    assert codes(answer, Method.LORA)[:2] == ["GPU_TOO_SMALL", "FITS_HERE"]


def test_dominated_methods_are_not_on_the_frontier(answer):
    # Same memory, time and cost for all here, so quality alone decides, and LoRA's is the highest that fits.
    by_method = {item.method: item for item in answer.methods}
    assert by_method[Method.LORA].on_frontier
    assert by_method[Method.QLORA].dominated_by is Method.LORA
    assert not by_method[Method.FULL].on_frontier
    assert by_method[Method.FULL].dominated_by is None


def test_without_the_estimator_figures_are_those_of_the_pack(pack, read):
    answer = conclude(pack, read(parameters=7e9, **ALL_ANSWERED), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    assert [item.code for item in answer.cautions] == ["ESTIMATOR_UNAVAILABLE"]
    assert answer.estimate is None
    assert answer.recipe is not None
    lora = next(item for item in answer.methods if item.method is Method.LORA)
    assert 2 * 3600 < lora.figures.total_seconds.expected < 8 * 3600
    assert 3 < lora.figures.cost.amount.expected < 12
    assert answer.confidence.level is Level.HIGH


def test_a_tie_is_the_reason_of_both_methods(pack, read, evidence):
    fields = {"hardware": GPU16, "dataset_profile": {"examples": 500}, "quality": "QUALITY_NEED_EXPERIMENTAL"}
    answer = conclude(pack, read(**fields), evidence(qlora="FITS", prefix="FITS"))
    assert codes(answer, Method.QLORA)[0] == "TIE_BREAK"
    assert codes(answer, Method.PREFIX)[0] == "LOST_TIE"


def test_the_playbooks_hours_are_not_mixed_with_estimates(pack, read, evidence):
    answer = conclude(pack, read(**ALL_ANSWERED), evidence(lora="FITS", prefix=None))
    by_method = {item.method: item for item in answer.methods}
    assert by_method[Method.PREFIX].figures.total_seconds is None
    assert by_method[Method.PREFIX].figures.cost is None
    assert by_method[Method.LORA].figures.total_seconds.expected == 100


@pytest.mark.parametrize(
    ("qlora", "words"),
    [
        (480.0, "it trains slower (8 min against 7 min for LoRA)"),
        (300.0, None),
        (None, "it trains slower than LoRA, at 0.64 to 0.78 of its rate on the same GPU"),
    ],
)
def test_a_ratio_of_times_gives_way_to_the_times_of_this_request(read, evidence, qlora, words):
    pack = builtin_packs()["evidence-1"]
    found = evidence(lora="FITS", qlora="FITS")
    times = {Method.LORA: 420.0, Method.QLORA: qlora}
    rows = {
        key: replace(row, total_seconds=point(times[key[0]])) if key[0] in times else row
        for key, row in found.rows.items()
    }
    asked = {"hardware": {"unknown_accelerator": {"marketed_memory_gb": 24}}, "time": "TIME_NEED_MINUTES"}
    answer = conclude(pack, read(**asked).reread(pack), replace(found, rows=rows))
    (item,) = [each for each in answer.methods if each.method is Method.QLORA]
    said = [each.message for each in item.reasons if each.code == "CAUTION_QLORA_SLOW"]
    assert said == ([f"{words}; consider LoRA"] if words else [])


def test_no_ratio_of_times_is_told_of_a_method_that_does_not_train_here(read, evidence):
    pack = builtin_packs()["evidence-1"]
    asked = {"hardware": GPU16, "time": "TIME_NEED_MINUTES"}
    answer = conclude(pack, read(**asked).reread(pack), evidence(qlora="FITS"))
    assert answer.decision.method is Method.QLORA
    said = {item.method: {each.code: each.message for each in item.reasons} for item in answer.methods}
    # LoRA does not fit: that it would be faster helps nobody, and nothing points to it.
    assert "CAUTION_QLORA_SLOW" not in said[Method.QLORA]
    assert "CAUTION_QLORA_SLOW" not in {caution.code for caution in answer.cautions}
    assert said[Method.PREFIX]["CAUTION_PREFIX_DOMINATED"] == "LoRA learns more and forgets less"


def test_times_that_speak_for_the_method_itself_are_told_as_times(read, evidence):
    pack = builtin_packs()["evidence-1"]
    found = evidence(lora="FITS", qlora="FITS")
    rows = {
        key: replace(row, total_seconds=point(600.0 if key[0] is Method.QLORA else 900.0))
        for key, row in found.rows.items()
    }
    hardware = {"unknown_accelerator": {"marketed_memory_gb": 24}}
    answer = conclude(pack, read(hardware=hardware).reread(pack), replace(found, rows=rows))
    (item,) = [each for each in answer.methods if each.method is Method.QLORA]
    (said,) = [each.message for each in item.reasons if each.code == "CAUTION_QLORA_MEMORY"]
    assert said == (
        "where a 16-bit base fits, LoRA is no worse in quality; QLoRA takes 10 min here, LoRA 15 min; consider LoRA"
    )


def point(seconds: float | None) -> evidence_pb2.Interval | None:
    """An interval of one value; None for None."""
    return None if seconds is None else evidence_pb2.Interval(low=seconds, expected=seconds, high=seconds)
