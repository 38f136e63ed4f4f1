# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_recommender.answers import ENUM_WORDS, Answers
from finetree_recommender.estimates import Accelerator, Catalogue
from finetree_recommender.inputs import normalize
from google.protobuf import json_format


def request(**fields: Any) -> rec.RecommendRequest:
    return json_format.ParseDict({"model": {"name": "m"}, **fields}, rec.RecommendRequest())


def test_what_is_not_given_stays_unknown(pack):
    inputs = normalize(request(), pack, Catalogue())
    assert inputs.answers == Answers()
    known = {item.field_path for item in inputs.listing if item.known}
    assert known == {"model", "profile"}
    assert all(item.value == "unknown" for item in inputs.listing if not item.known)
    assert inputs.examples is None
    assert not inputs.hardware_known


def test_every_answer_is_read(pack):
    inputs = normalize(
        request(
            hardware={"unknown_accelerator": {"marketed_memory_gb": 23.6}},
            budget_usd_month=500,
            quality="QUALITY_NEED_CRITICAL",
            time="TIME_NEED_HOURS",
            tasks="TASK_VARIETY_SIMILAR",
            use_case="USE_CASE_STARTUP",
            task_kind="TASK_KIND_CODE",
            can_rent=False,
            dataset_profile={"examples": 5000},
        ),
        pack,
        Catalogue(),
    )
    assert inputs.answers == Answers("24", "usd_100_500", "CRITICAL", "HOURS", "SIMILAR", "STARTUP", "CODE")
    assert all(item.known for item in inputs.listing)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("quality", "QUALITY_NEED_"),
        ("time", "TIME_NEED_"),
        ("tasks", "TASK_VARIETY_"),
        ("use_case", "USE_CASE_"),
        ("task_kind", "TASK_KIND_"),
    ],
)
def test_every_value_of_the_contract_has_its_word(pack, name, prefix):
    for word in ENUM_WORDS[name]:
        inputs = normalize(request(**{name: prefix + word}), pack, Catalogue())
        assert inputs.answers.get(name) == word


def test_a_budget_of_zero_is_known(pack):
    assert normalize(request(budget_usd_month=0), pack, Catalogue()).answers.budget == "below_50"


def test_an_accelerators_memory_comes_from_the_catalogue(pack):
    catalogue = Catalogue(accelerators={"rtx-4090": Accelerator(24, native_bf16=True), "t4": Accelerator(16, False)})
    found = normalize(request(hardware={"accelerator": "RTX-4090"}), pack, catalogue)
    assert (found.answers.memory, found.marketed_gb, found.native_bf16) == ("24", 24, True)
    assert normalize(request(hardware={"accelerator": "t4"}), pack, catalogue).native_bf16 is False


def test_without_the_catalogue_the_playbooks_own_cards_are_known(pack):
    known = normalize(request(hardware={"accelerator": "rtx-4080"}), pack, Catalogue())
    unknown = normalize(request(hardware={"accelerator": "mi300x"}), pack, Catalogue())
    assert (known.answers.memory, unknown.answers.memory) == ("16", "unknown")


def test_a_cpu_is_neither_zero_gigabytes_nor_unknown(pack):
    inputs = normalize(request(hardware={"cpu": {"cores": 2, "memory_bytes": 2**34}}), pack, Catalogue())
    assert inputs.answers.memory == "cpu"
    assert inputs.on_cpu
    assert inputs.marketed_gb is None
    assert "CPU, 2 cores, 16.0 GiB" in [item.value for item in inputs.listing]
