# SPDX-License-Identifier: Apache-2.0
"""Confidence in a verdict, and the stable codes of its factors."""

from dataclasses import replace
from typing import Any

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.explain import cautions
from finetree_recommender.explain.confidence import Level
from finetree_recommender.method import Method
from finetree_recommender.recommend import conclude
from finetree_recommender.rule_pack.pack import builtin_packs

GPU16 = {"unknown_accelerator": {"marketed_memory_gb": 16}}
CPU = {"cpu": {"cores": 2, "memory_bytes": 2**34}}
TIED = {"hardware": GPU16, "quality": "QUALITY_NEED_EXPERIMENTAL"}
AMD = {"accelerator": "MI300X"}
GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
# Longer than the model's 8192 positions.
LONGER = {"examples": 500, "token_lengths": [{"upper_bound": 9000, "count": 500}]}
BEST = {
    "hardware": {"unknown_accelerator": {"marketed_memory_gb": 80}},
    "dataset_profile": {"examples": 20_000, "total_tokens": 2_000_000},
    "quality": "QUALITY_NEED_MAXIMUM",
    "budget_per_month": {"currency_code": "USD", "units": 5000},
    "time": "TIME_NEED_DAYS",
    "tasks": "TASK_VARIETY_SINGLE",
}
ALL_ANSWERED = {
    "hardware": GPU24,
    "dataset_profile": {"examples": 5000, "total_tokens": 2_000_000},
    "budget_per_month": {"currency_code": "USD", "units": 300},
    "quality": "QUALITY_NEED_IMPORTANT",
    "time": "TIME_NEED_HOURS",
    "tasks": "TASK_VARIETY_SIMILAR",
}


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("QUESTIONS_UNANSWERED", ({"lora": "FITS"}, {"hardware": GPU24})),
        ("VOTES_TIED", ({"qlora": "FITS", "prefix": "FITS"}, TIED)),
        ("CAUTIONS_APPLY", ({"lora": "FITS"}, {"hardware": GPU24, "quality": "QUALITY_NEED_MAXIMUM"})),
        ("RULE_OVERRULED", ({"lora": "FITS"}, {"hardware": CPU})),
        ("NOT_ESTIMATED", (None, {"hardware": GPU24})),
        ("MEMORY_TIGHT", ({"lora": "TIGHT"}, {"hardware": GPU24})),
        ("LIMITS_UNMET", ({"lora": "FITS"}, {"hardware": GPU24, "max_duration": "1s"})),
        ("MODEL_OUT_OF_DOMAIN", (None, {"hardware": GPU24, "parameters": 1_000_000})),
        ("ACCELERATOR_NOT_SUPPORTED", (None, {"hardware": AMD})),
        ("DATASET_UNKNOWN", ({"lora": "FITS"}, {"hardware": GPU24})),
        ("LENGTHS_UNKNOWN", ({"lora": "FITS"}, {"hardware": GPU24, "dataset_profile": {"examples": 5000}})),
        ("FEW_EXAMPLES", ({"lora": "FITS"}, {"hardware": GPU24, "dataset_profile": {"examples": 40}})),
        ("IMPLAUSIBLE_INPUT", ({"lora": "FITS"}, {"hardware": GPU24, "dataset_profile": {"examples": 1}})),
        ("ROWS_CUT", ({"lora": "FITS"}, {"hardware": GPU24, "dataset_profile": LONGER})),
        ("BF16_ROUNDING", ({"full": "FITS"}, BEST)),
    ],
)
def test_each_factor_has_a_code_where_it_applies_and_nowhere_else(pack, read, evidence, code, asked: Any):
    fits, fields = asked
    found, missing = (evidence(**fits), "") if fits is not None else (None, cautions.ESTIMATOR_UNAVAILABLE)
    codes = [factor.code for factor in conclude(pack, read(**fields), found, missing=missing).confidence.factors]
    assert codes.count(code) == 1
    assert "CHANGES_KEEP_VERDICT" in codes
    sure = conclude(pack, read(**ALL_ANSWERED), evidence(lora="FITS", qlora="FITS")).confidence
    assert [factor.code for factor in sure.factors] == ["CHANGES_KEEP_VERDICT"]


def test_confidence_is_lower_where_inputs_are_unknown_or_a_rule_is_overruled(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS")
    sure = conclude(pack, read(**ALL_ANSWERED), found).confidence
    unsure = conclude(pack, read(hardware=GPU24), found).confidence
    overruled = conclude(pack, read(hardware=CPU), found).confidence
    assert (sure.level, unsure.level, overruled.level) == (Level.HIGH, Level.MEDIUM, Level.LOW)
    assert "RULE_OVERRULED" in {factor.code for factor in overruled.factors}


@pytest.mark.parametrize("rows", [1, 9, 2 * 10**9, 10**12])
def test_what_is_likely_a_mistake_is_of_low_confidence_and_said_first(pack, read, evidence, rows):
    asked = ALL_ANSWERED | {"dataset_profile": {"examples": rows, "total_tokens": 400 * rows}}
    answer = conclude(pack, read(**asked), evidence(lora="FITS", qlora="FITS"))
    assert answer.confidence.level is Level.LOW
    assert answer.cautions[0].code == "IMPLAUSIBLE_INPUT"
    assert "dataset_profile.examples" in answer.cautions[0].message
    assert "FEW_EXAMPLES" not in {caution.code for caution in answer.cautions}


def test_a_run_of_more_than_a_year_is_a_mistake_and_not_only_a_long_one(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS")
    years = evidence_pb2.Interval(low=1e8, expected=2e8, high=3e8)
    rows = {key: replace(row, total_seconds=years) for key, row in found.rows.items()}
    answer = conclude(pack, read(**ALL_ANSWERED), replace(found, rows=rows))
    codes = [caution.code for caution in answer.cautions]
    assert (codes.count("IMPLAUSIBLE_INPUT"), codes.count("LONG_RUN")) == (1, 0)
    assert answer.confidence.level is Level.LOW


def test_weights_that_lose_updates_are_never_of_high_confidence_and_name_lora(pack, read, evidence):
    """Every question is answered, and nothing else is in doubt."""
    asked = read(parameters=8_000_000_000, **BEST)
    rounded = conclude(pack, asked, evidence(full="FITS", lora="FITS"))
    assert rounded.decision.method is Method.FULL
    assert [factor.code for factor in rounded.confidence.factors] == ["BF16_ROUNDING", "CHANGES_KEEP_VERDICT"]
    assert rounded.confidence.level is Level.MEDIUM
    (caution,) = (item for item in rounded.cautions if item.code == "BF16_ROUNDING")
    assert caution.redirect is Method.LORA
    assert "fits: 10.0 of 8.0 GiB" in caution.message
    kept = conclude(builtin_packs()["evidence-1"], asked.reread(builtin_packs()["evidence-1"]), evidence(full="FITS"))
    assert kept.confidence.level is Level.HIGH


def test_missing_inputs_lower_the_score_one_by_one(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS")
    without_lengths = ALL_ANSWERED | {"dataset_profile": {"examples": 5000}}
    without_data = {name: value for name, value in ALL_ANSWERED.items() if name != "dataset_profile"}
    scores = [
        conclude(pack, read(**fields), found).confidence.score
        for fields in (ALL_ANSWERED, without_lengths, without_data, {"hardware": GPU24})
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1 > scores[1]
    assert scores[2] > scores[3]


def test_without_data_confidence_is_never_high(read, evidence):
    pack = builtin_packs()["evidence-1"]
    fields = {name: value for name, value in ALL_ANSWERED.items() if name != "dataset_profile"}
    unknown = conclude(pack, read(**fields).reread(pack), evidence(lora="FITS"))
    known = conclude(pack, read(**ALL_ANSWERED).reread(pack), evidence(lora="FITS"))
    assert (unknown.confidence.level, known.confidence.level) == (Level.MEDIUM, Level.HIGH)
    assert "where the data are known" in unknown.confidence.definition
