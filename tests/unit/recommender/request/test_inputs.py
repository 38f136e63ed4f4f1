# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_recommender.estimator.values import Accelerator, Catalog
from finetree_recommender.request.inputs import normalize
from finetree_recommender.request.limits import Limits
from finetree_recommender.rule_pack.answers import ENUM_WORDS, Answers
from finetree_runtime.money import to_money
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


def request(**fields: Any) -> recommendation_pb2.RecommendRequest:
    return json_format.ParseDict({"model": {"name": "m"}, **fields}, recommendation_pb2.RecommendRequest())


def test_what_is_not_given_stays_unknown(pack):
    inputs = normalize(request(), pack, Catalog())
    assert inputs.answers == Answers()
    known = {item.field_path for item in inputs.echo if item.known}
    assert known == {"model", "profile"}
    assert all(item.value == "unknown" for item in inputs.echo if not item.known)
    assert inputs.examples is None
    assert not inputs.hardware_known


def test_every_answer_is_read(pack):
    inputs = normalize(
        request(
            hardware={"unknown_accelerator": {"marketed_memory_gb": 23.6}},
            budget_per_month=usd(500),
            quality="QUALITY_NEED_CRITICAL",
            time="TIME_NEED_HOURS",
            tasks="TASK_VARIETY_SIMILAR",
            use_case="USE_CASE_STARTUP",
            task_domain="TASK_DOMAIN_CODE",
            can_rent=False,
            dataset_profile={"examples": 5000},
            max_duration="7200s",
            budget_per_run=usd(9),
            runs_per_month=10,
            task_count=3,
            behavior_change="BEHAVIOR_CHANGE_MINOR",
            experience="EXPERIENCE_EXPERT",
            serving=["SERVING_TARGET_VLLM"],
            priorities=["PRIORITY_COST", "PRIORITY_SPEED"],
        ),
        pack,
        Catalog(),
    )
    words = ("24", "usd_100_500", "CRITICAL", "HOURS", "SIMILAR", "STARTUP", "CODE", "MINOR", "EXPERT", "several")
    assert inputs.answers == Answers(*words, priorities=("COST", "SPEED"))
    assert inputs.limits == Limits(7200, 9, ("VLLM",), None, 5000)
    assert all(item.known for item in inputs.echo)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("quality", "QUALITY_NEED_"),
        ("time", "TIME_NEED_"),
        ("tasks", "TASK_VARIETY_"),
        ("use_case", "USE_CASE_"),
        ("task_domain", "TASK_DOMAIN_"),
        ("behavior_change", "BEHAVIOR_CHANGE_"),
        ("experience", "EXPERIENCE_"),
    ],
)
def test_every_value_of_the_contract_has_its_answer(pack, name, prefix):
    for word in ENUM_WORDS[name]:
        inputs = normalize(request(**{name: prefix + word}), pack, Catalog())
        assert inputs.answers.get(name) == word


def test_a_budget_of_zero_is_known(pack):
    assert normalize(request(budget_per_month=usd(0)), pack, Catalog()).answers.budget == "below_50"


def test_an_accelerators_memory_comes_from_the_catalog(pack):
    catalog = Catalog(accelerators={"rtx-4090": Accelerator(24, native_bf16=True), "t4": Accelerator(16, False)})
    found = normalize(request(hardware={"accelerator": "RTX-4090"}), pack, catalog)
    assert (found.answers.memory, found.marketed_gb, found.native_bf16) == ("24", 24, True)
    assert normalize(request(hardware={"accelerator": "t4"}), pack, catalog).native_bf16 is False


def test_without_the_catalog_the_playbooks_own_cards_are_known(pack):
    known = normalize(request(hardware={"accelerator": "rtx-4080"}), pack, Catalog())
    unknown = normalize(request(hardware={"accelerator": "mi300x"}), pack, Catalog())
    assert (known.answers.memory, unknown.answers.memory) == ("16", "unknown")


def test_a_cpu_is_neither_zero_gigabytes_nor_unknown(pack):
    inputs = normalize(request(hardware={"cpu": {"cores": 2, "memory_bytes": 2**34}}), pack, Catalog())
    assert inputs.answers.memory == "cpu"
    assert inputs.on_cpu
    assert inputs.marketed_gb is None
    assert "CPU, 2 cores, 16.0 GiB" in [item.value for item in inputs.echo]


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        ({"accelerator": "M3 Max"}, "M3 Max, memory unknown, not supported yet"),
        ({"unknown_accelerator": {"marketed_memory_gb": 24, "name": "RX 7900"}}, "RX 7900, 24 GB, not supported yet"),
        ({"unknown_accelerator": {"marketed_memory_gb": 24}, "count": 2}, "2 x GPU, 24 GB"),
    ],
)
def test_hardware_is_listed_as_it_was_understood(pack, hardware, words):
    listed = normalize(request(hardware=hardware), pack, Catalog()).echo
    assert next((item.value, item.known) for item in listed if item.field_path == "hardware") == (words, True)


def test_every_field_of_a_request_is_listed_or_carried(pack):
    listed = {item.field_path.split(".")[0] for item in normalize(request(), pack, Catalog()).echo}
    carried = {"dataset", "evaluation", "evaluation_profile", "matrix_rates", "ownership", "pinned", "rule_pack"}
    assert listed | carried == {field.name for field in recommendation_pb2.RecommendRequest.DESCRIPTOR.fields}


@pytest.mark.parametrize(
    ("fields", "budget", "run_usd"),
    [
        ({"budget_per_month": usd(300)}, "usd_100_500", 300),
        ({"budget_per_month": usd(300), "runs_per_month": 10}, "usd_100_500", 30),
        ({"budget_per_run": usd(30), "runs_per_month": 10}, "usd_100_500", 30),
        ({"budget_per_run": usd(30)}, "unknown", 30),
        ({"budget_per_run": usd(50), "budget_per_month": usd(300), "runs_per_month": 10}, "usd_100_500", 30),
        ({"runs_per_month": 10}, "unknown", None),
        ({"budget_per_run": usd(0)}, "unknown", 0),
    ],
)
def test_a_budget_of_a_run_and_of_a_month_are_turned_into_each_other(pack, fields, budget, run_usd):
    inputs = normalize(request(**fields), pack, Catalog())
    assert (inputs.answers.budget, inputs.limits.run_usd) == (budget, run_usd)


def test_budgets_that_disagree_are_cautioned(pack):
    fields = {"budget_per_run": usd(50), "budget_per_month": usd(300), "runs_per_month": 10}
    caution = normalize(request(**fields), pack, Catalog()).cautions[0]
    assert caution.code == "INPUTS_DISAGREE"
    assert "30.00 USD" in caution.message
    rich = normalize(request(budget_per_run=usd(1e6), budget_per_month=usd(5), runs_per_month=1), pack, Catalog())
    assert rich.cautions[0].message.startswith("1 run of 1000000 USD: 1000000 USD a month, whose budget is 5:")


@pytest.mark.parametrize(
    ("seconds", "time"), [(1, "MINUTES"), (3599, "MINUTES"), (3600, "HOURS"), (86400, "HOURS"), (86401, "DAYS")]
)
def test_a_time_limit_answers_the_question_of_time_where_that_is_open(pack, seconds, time):
    implied = normalize(request(max_duration=f"{seconds}s"), pack, Catalog())
    assert implied.answers.time == time
    assert next(i for i in implied.echo if i.field_path == "time").value == f"{time.lower()}, from max_duration"
    asked = normalize(request(max_duration=f"{seconds}s", time="TIME_NEED_DAYS"), pack, Catalog())
    assert asked.answers.time == "DAYS"


@pytest.mark.parametrize(("count", "tasks"), [(1, "SINGLE"), (2, "unknown"), (900, "unknown")])
def test_one_task_is_one_task_and_several_are_not_known_to_be_alike(pack, count, tasks):
    assert normalize(request(task_count=count), pack, Catalog()).answers.tasks == tasks


def test_an_answer_and_a_number_of_tasks_that_disagree_are_cautioned(pack):
    inputs = normalize(request(task_count=5, tasks="TASK_VARIETY_SINGLE"), pack, Catalog())
    assert [item.code for item in inputs.cautions] == ["INPUTS_DISAGREE"]
    assert inputs.answers.tasks == "SINGLE"
    agreeing = normalize(request(task_count=5, tasks="TASK_VARIETY_SIMILAR"), pack, Catalog())
    assert not agreeing.cautions
