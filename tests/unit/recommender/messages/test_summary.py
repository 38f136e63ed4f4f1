# SPDX-License-Identifier: Apache-2.0
"""The answer in plain words: what it names, in which case, and that no jargon and no name of a rule slips in."""

import re
from typing import Any

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.explain import cautions
from finetree_recommender.formatting import money, time
from finetree_recommender.messages.summary import headline, paragraph
from finetree_recommender.recommend import conclude
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_runtime.money import to_money
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


GPU16 = {"unknown_accelerator": {"marketed_memory_gb": 16}}
GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
CPU = {"cpu": {"cores": 2, "memory_bytes": 2**34}}
MEMORY = {"priorities": ["PRIORITY_MEMORY"]}
ROWS = {"dataset_profile": {"examples": 500}}


def told(pack, read, found, **fields: Any):
    missing = "" if found is not None else cautions.ESTIMATOR_UNAVAILABLE
    return conclude(pack, read(**fields), found, missing=missing)


def test_it_names_method_reason_figures_hardware_and_what_would_change_it(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS", adapter="FITS")
    words = paragraph(told(pack, read, found, hardware=GPU24, quality="QUALITY_NEED_IMPORTANT", **ROWS))
    assert words.startswith("Use LoRA: your answers speak for it more than for any other method")
    assert "Expect 95 (95 to 100) percent of the quality of full fine-tuning." in words
    assert "It takes 10.0 GiB of the 8.0 that a GPU of 24 GB offers, and 1.7 minutes, for 1.00 USD." in words
    assert "By the rules it would be QLoRA on a GPU of 16 GB, and " in words
    assert words.endswith("by the rules of playbook-1.")


def test_an_upgrade_tells_the_playbooks_words_and_what_trains_all_the_same(pack, read, evidence):
    answer = told(pack, read, evidence(lora="FITS"), hardware=CPU, **ROWS)
    assert paragraph(answer).startswith('For a machine without a GPU the playbook says "upgrade GPU first"; use LoRA: ')
    assert "although the playbook would upgrade the GPU first" in headline(answer)


def test_where_nothing_trains_the_words_hold(pack, read, evidence):
    answer = told(pack, read, evidence(), hardware=CPU, **ROWS)
    assert paragraph(answer).startswith('The playbook\'s words are "upgrade GPU first", and they hold')
    assert "Expect" not in paragraph(answer)
    assert told(pack, read, evidence(), hardware=GPU24).decision.method is None
    assert paragraph(told(pack, read, evidence(), hardware=GPU24)).startswith(
        "Upgrade, although playbook-1 says LoRA: "
    )


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("playbook-1", "Use Adapter layers: it is made for many different tasks over one model."),
        ("evidence-1", "Use LoRA: many different tasks over one model take one small file each by it."),
    ],
)
def test_many_tasks_are_told_as_what_the_method_does_with_them(read, evidence, policy, words):
    found = evidence(lora="FITS", adapter="FITS")
    many = {"hardware": GPU24, "tasks": "TASK_VARIETY_MANY_DIFFERENT"}
    assert paragraph(told(builtin_packs()[policy], read, found, **many)).startswith(words)


def test_what_matters_most_is_named_where_it_decides(read, evidence):
    answer = told(builtin_packs()["evidence-1"], read, evidence(lora="FITS", qlora="FITS"), hardware=GPU24, **MEMORY)
    assert paragraph(answer).startswith("Use QLoRA: of what fits here it comes first where memory matters most.")


def test_a_method_that_gave_way_to_memory_is_named(pack, read, evidence):
    words = paragraph(told(pack, read, evidence(qlora="FITS"), hardware=GPU24, **ROWS))
    assert words.startswith("Use QLoRA: the rules prefer LoRA, which does not fit into the memory, and this one does.")


def test_several_gpus_are_told_as_several(pack, read, evidence):
    words = paragraph(told(pack, read, evidence(lora="FITS"), hardware={**GPU24, "count": 8}, **ROWS))
    assert "GiB of the 8.0 that each of 8 GPUs of 24 GB offers" in words


def test_hardware_alone_is_no_answer_to_a_question(pack, read, evidence):
    words = paragraph(told(pack, read, evidence(lora="FITS"), hardware=GPU24))
    assert words.startswith("Use LoRA: it is what the rules recommend for a GPU of 24 GB.")


def test_the_gravest_caution_is_told_before_what_is_merely_unknown(pack, read, evidence):
    tight = paragraph(told(pack, read, evidence(lora="TIGHT"), hardware=GPU24))
    assert "Beware: the upper end of the memory estimate does not fit." in tight
    assert "say how many rows there are" not in tight


def test_without_estimates_it_says_so(pack, read):
    words = paragraph(told(pack, read, None, hardware=GPU24, **ROWS))
    assert "What it takes is not estimated, since the estimator did not answer." in words
    assert "GiB" not in words


def test_what_would_decide_is_asked_for_and_nothing_else(pack, read, evidence):
    words = paragraph(told(pack, read, None))
    assert "To be surer, say what there is to train on, how long a run may take and what it may cost." in words
    answered = {"budget_per_month": usd(300), "quality": "QUALITY_NEED_IMPORTANT", "time": "TIME_NEED_HOURS"}
    known = told(pack, read, evidence(lora="FITS"), hardware=GPU24, tasks="TASK_VARIETY_SIMILAR", **answered)
    assert "To be surer" not in paragraph(known)


def test_another_packs_disagreement_is_told(pack, read, evidence):
    packs = builtin_packs()
    found = evidence(lora="FITS", qlora="FITS", prefix="FITS")
    inputs = read(hardware={"unknown_accelerator": {"marketed_memory_gb": 8}})
    answer = conclude(pack, inputs, found, others=packs.values())
    assert "The rules of evidence-1 say LoRA instead." in paragraph(answer)


@pytest.mark.parametrize("policy", builtin_packs())
@pytest.mark.parametrize("hardware", [None, CPU, GPU16, GPU24])
def test_no_rule_and_no_code_slips_into_plain_words(policy, hardware, read, evidence):
    pack = builtin_packs()[policy]
    fields = {"hardware": hardware} if hardware else {}
    for found in (None, evidence(lora="FITS", qlora="TIGHT"), evidence(full="FITS"), evidence()):
        words = paragraph(told(pack, read, found, **fields))
        assert not re.search(r"[A-Z]{2,}_[A-Z]|\b[a-z]+\.[a-z_]+\.|\brule [a-zA-Z]+\.|\b(?:pareto|votes\.)", words), (
            words
        )
        assert "  " not in words
        assert words.endswith(".")


@pytest.mark.parametrize(
    ("say", "ends", "words"),
    [
        (time, (60, 70, 89), "70.0 (60.0 to 89.0) seconds"),
        (time, (5400, 5400, 5400), "1.5 hours"),
        (time, (86400, 172800, 259200), "2.0 (1.0 to 3.0) days"),
        (time, (1e9, 2e9, 4e9), "63.4 (31.7 to 126.8) years"),
        (money, (0.001, 0.002, 0.004), "less than 0.01"),
        (money, (0.001, 0.004, 0.02), "less than 0.02"),
        (money, (1000, 2000, 4000), "2,000.00 (1,000.00 to 4,000.00)"),
    ],
)
def test_times_and_costs_are_told_in_what_suits_them(say, ends, words):
    assert say(evidence_pb2.Interval(low=ends[0], expected=ends[1], high=ends[2])) == words
