# SPDX-License-Identifier: Apache-2.0
"""The words of `finetree recommend` as keywords."""

from datetime import timedelta
from typing import Any, get_args

import pytest
from finetree import InvalidArgument, recommend_words
from finetree.recommend_words import RecommendWords, recommend_request
from finetree_api.recommender.v1 import recommendation_pb2 as pb
from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import hardware_pb2, serving_pb2, training_data_pb2
from finetree_cli.commands import recommend as command
from finetree_cli.options.spec import SHARDING
from google.type import money_pb2


def request(message: Any = None, **words: Any) -> pb.RecommendRequest:
    return recommend_request(message, words)  # type: ignore[arg-type]  # wrong words are tried too


def test_words_become_the_fields_of_the_contract():
    found = request(
        model="llama-3.1-8b",
        gpu="rtx-4090",
        gpus=2,
        sharding="fsdp",
        quality="maximum",
        tasks="many",
        serve=["llama.cpp", "vllm"],
        priority="quality",
        behavior="minor",
        recipe="evidence",
        can_rent=False,
        runs_per_month=4,
        budget_per_run="50 USD",
        max_duration="8h",
        examples=5000,
        tokens_per_example=300,
    )
    assert found.model.name == "llama-3.1-8b"
    assert found.hardware == hardware_pb2.Hardware(accelerator="rtx-4090", count=2, sharding=hardware_pb2.SHARDING_FULL)
    assert (found.quality, found.tasks) == (pb.QUALITY_NEED_MAXIMUM, pb.TASK_VARIETY_MANY_DIFFERENT)
    assert list(found.serving) == [serving_pb2.SERVING_TARGET_LLAMA_CPP, serving_pb2.SERVING_TARGET_VLLM]
    assert list(found.priorities) == [pb.PRIORITY_QUALITY]
    assert (found.behavior_change, found.profile) == (pb.BEHAVIOR_CHANGE_MINOR, pb.RECIPE_PROFILE_EVIDENCE)
    assert (found.HasField("can_rent"), found.can_rent, found.runs_per_month) == (True, False, 4)
    assert found.budget_per_run == money_pb2.Money(currency_code="USD", units=50)
    assert found.max_duration.seconds == 28800
    assert found.dataset_profile == training_data_pb2.DatasetProfile(examples=5000, total_tokens=1_500_000)


def test_hardware_may_be_spread_over_machines_rented_or_owned():
    spread = request(gpu="h100", gpus=16, nodes=2, network=400).hardware
    assert (spread.count, spread.nodes, spread.network_gbits_per_second) == (16, 2, 400)
    owned = request(gpu="rtx-4090", price_per_kwh="0.30 EUR", watts=600).ownership.owned
    assert (owned.price_per_kwh.currency_code, owned.price_per_kwh.nanos, owned.watts) == ("EUR", 300_000_000, 600)
    assert request(watts=600).ownership.owned == hardware_pb2.OwnedHardware(watts=600)
    assert request(price="a/b/1").ownership.rented.price_id == "a/b/1"
    assert request(price="").ownership.HasField("rented")


def test_times_and_money_are_texts_or_numbers():
    assert {request(max_duration=each).max_duration.seconds for each in ("1h", 3600, timedelta(hours=1))} == {3600}
    amounts = ("50 USD", 50, money_pb2.Money(currency_code="USD", units=50))
    assert {request(budget_per_month=each).budget_per_month.units for each in amounts} == {50}


def test_words_replace_fields_of_a_request_and_a_dataset_brings_its_profile():
    profile = training_data_pb2.DatasetProfile(examples=7)
    data = dataset_pb2.Dataset(name="projects/default/datasets/d", profile=profile)
    given = pb.RecommendRequest(quality=pb.QUALITY_NEED_CRITICAL, rule_pack="evidence-1")
    found = request(given, quality="experimental", dataset=data, cpu=True, cores=4, memory_gb=16)
    assert (found.quality, found.rule_pack) == (pb.QUALITY_NEED_EXPERIMENTAL, "evidence-1")
    assert (found.dataset.name, found.dataset_profile) == (data.name, profile)
    assert (found.hardware.cpu.cores, found.hardware.cpu.memory_bytes) == (4, 16_000_000_000)
    assert given.quality == pb.QUALITY_NEED_CRITICAL
    assert request({"quality": "QUALITY_NEED_CRITICAL"}).quality == pb.QUALITY_NEED_CRITICAL
    assert request(model="org/m@v2", gpu_memory=16, gpu="t4").hardware.unknown_accelerator.name == "t4"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"quality": "best"}, "quality: expected one of maximum, critical, important, acceptable, experimental"),
        ({"tasks": "several"}, "tasks: expected one of single, similar, many, got 'several'"),
        ({"serve": ["tensorrt"]}, "serve: expected one of vllm, ollama, llama.cpp"),
        ({"sharding": "tp", "gpu": "t4"}, "sharding: expected one of ddp, zero-1"),
        ({"max_duration": "8"}, "max_duration: 8 has no unit: write 8h for hours"),
        ({"max_duration": [8]}, "max_duration: expected '8h' or a number of seconds"),
        ({"budget_per_run": "fifty"}, "budget_per_run: expected an amount such as '50 USD'"),
        ({"gpu": "t4", "cpu": True}, "exclude each other"),
        ({"gpus": 2}, "gpus: has no effect without a GPU"),
        ({"nodes": 2}, "nodes: has no effect without a GPU"),
        ({"cpu": True, "network": 400}, "network: has no effect without a GPU"),
        ({"price": "a", "watts": 300}, "exclude each other"),
        ({"watts": "many"}, "watts: "),
        ({"gpu": "t4", "cores": 2}, "cores: has no effect without cpu=True"),
        ({"tokens": 5}, "tokens: needs examples"),
        ({"examples": 5000, "tokens": 400}, "tokens: 400 is less than one for each of 5000 rows"),
        ({"examples": 5, "tokens": 50, "tokens_per_example": 1}, "exclude each other"),
        ({"task_count": "many"}, "task_count: "),
        ({"deadline": "8h"}, "deadline: no such word; known are model, gpu"),
    ],
)
def test_what_is_not_accepted_is_refused_with_what_is(words, problem):
    with pytest.raises(InvalidArgument) as caught:
        request(**words)
    assert problem in str(caught.value)
    assert caught.value.violations[0].field == problem.partition(":")[0] or "exclude" in problem


def test_the_words_are_those_of_the_command():
    own = {name.replace("-", "_") for option in command.recommend.params for name in (option.name or "",)}
    ours = {*RecommendWords.__annotations__, "count"}
    assert ours - own == {"gpus"}
    literals = {
        recommend_words.Quality: command.QUALITY,
        recommend_words.Time: command.TIME,
        recommend_words.Tasks: command.TASKS,
        recommend_words.UseCaseWord: command.USE_CASE,
        recommend_words.Domain: command.TASK_DOMAIN,
        recommend_words.Behavior: command.BEHAVIOR,
        recommend_words.ExperienceWord: command.EXPERIENCE,
        recommend_words.Server: command.SERVING,
        recommend_words.PriorityWord: command.PRIORITY,
        recommend_words.Recipe: command.PROFILE,
        recommend_words.ShardingWord: SHARDING,
    }
    for literal, words in literals.items():
        assert get_args(literal) == tuple(words)
    assert dict(SHARDING) == dict(recommend_words.SHARDING)
