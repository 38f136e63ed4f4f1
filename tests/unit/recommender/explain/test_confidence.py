# SPDX-License-Identifier: Apache-2.0
"""Confidence in a verdict, and the stable codes of its factors."""

from typing import Any

import pytest
from finetree_recommender.explain import cautions
from finetree_recommender.explain.confidence import Level
from finetree_recommender.recommend import conclude

GPU16 = {"unknown_accelerator": {"marketed_memory_gb": 16}}
CPU = {"cpu": {"cores": 2, "memory_bytes": 2**34}}
TIED = {"hardware": GPU16, "quality": "QUALITY_NEED_EXPERIMENTAL"}
AMD = {"accelerator": "MI300X"}
GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
ALL_ANSWERED = {
    "hardware": GPU24,
    "dataset_profile": {"examples": 5000},
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
