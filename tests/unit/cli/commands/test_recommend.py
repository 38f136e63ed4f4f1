# SPDX-License-Identifier: Apache-2.0
"""The words of `finetree recommend` and the contract's enums."""

import pytest
from finetree_api.recommender.v1 import picture_pb2, recommendation_pb2
from finetree_api.types.v1 import serving_pb2
from finetree_cli.commands import recommend
from finetree_recommender.messages.questionnaire import questionnaire
from finetree_recommender.rule_pack.pack import builtin_packs


@pytest.mark.parametrize(
    ("words", "enum", "prefix"),
    [
        (recommend.QUALITY, recommendation_pb2.QualityNeed, "QUALITY_NEED_"),
        (recommend.TIME, recommendation_pb2.TimeNeed, "TIME_NEED_"),
        (recommend.TASKS, recommendation_pb2.TaskVariety, "TASK_VARIETY_"),
        (recommend.USE_CASE, recommendation_pb2.UseCase, "USE_CASE_"),
        (recommend.TASK_DOMAIN, recommendation_pb2.TaskDomain, "TASK_DOMAIN_"),
        (recommend.PROFILE, recommendation_pb2.RecipeProfile, "RECIPE_PROFILE_"),
        (recommend.BEHAVIOR, recommendation_pb2.BehaviorChange, "BEHAVIOR_CHANGE_"),
        (recommend.EXPERIENCE, recommendation_pb2.Experience, "EXPERIENCE_"),
        (recommend.SERVING, serving_pb2.ServingTarget, "SERVING_TARGET_"),
        (recommend.TREES, picture_pb2.PictureFormat, "PICTURE_FORMAT_"),
        (recommend.PRIORITY, recommendation_pb2.Priority, "PRIORITY_"),
    ],
)
def test_the_words_of_flags_are_those_of_the_contract(words, enum, prefix):
    names = {name.removeprefix(prefix).lower(): number for name, number in enum.items() if number}
    ours = {"many_different": "many", "llama_cpp": "llama.cpp"}
    names = {ours.get(name, name): number for name, number in names.items()}
    assert words == names


def test_every_answer_of_the_built_in_questionnaires_can_be_said_by_options():
    for pack in builtin_packs().values():
        for option in (each for question in questionnaire(pack) for each in question.options):
            words = list(recommend.as_options(option.request))
            with recommend.recommend.make_context("recommend", list(words)) as context:
                given = context.params
            assert words, option.id
            budget = given["budget_per_month"] or option.request.budget_per_month
            assert budget == option.request.budget_per_month
            assert given["gpu_memory"] in (None, option.request.hardware.unknown_accelerator.marketed_memory_gb)
