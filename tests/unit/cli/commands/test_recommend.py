# SPDX-License-Identifier: Apache-2.0
"""The words of `finetree recommend` and the contract's enums."""

import pytest
from finetree_api.recommender.v1 import recommender_pb2
from finetree_cli.commands import recommend


@pytest.mark.parametrize(
    ("words", "enum", "prefix"),
    [
        (recommend.QUALITY, recommender_pb2.QualityNeed, "QUALITY_NEED_"),
        (recommend.TIME, recommender_pb2.TimeNeed, "TIME_NEED_"),
        (recommend.TASKS, recommender_pb2.TaskVariety, "TASK_VARIETY_"),
        (recommend.USE_CASE, recommender_pb2.UseCase, "USE_CASE_"),
        (recommend.TASK_KIND, recommender_pb2.TaskKind, "TASK_KIND_"),
        (recommend.PROFILE, recommender_pb2.RecipeProfile, "RECIPE_PROFILE_"),
        (recommend.BEHAVIOR, recommender_pb2.BehaviorChange, "BEHAVIOR_CHANGE_"),
        (recommend.EXPERIENCE, recommender_pb2.Experience, "EXPERIENCE_"),
        (recommend.SERVING, recommender_pb2.ServingTarget, "SERVING_TARGET_"),
        (recommend.PRIORITY, recommender_pb2.Priority, "PRIORITY_"),
    ],
)
def test_the_words_of_flags_are_those_of_the_contract(words, enum, prefix):
    names = {name.removeprefix(prefix).lower(): number for name, number in enum.items() if number}
    ours = {"many_different": "many", "llama_cpp": "llama.cpp"}
    names = {ours.get(name, name): number for name, number in names.items()}
    assert words == names
