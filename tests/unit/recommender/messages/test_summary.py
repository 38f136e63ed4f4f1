# SPDX-License-Identifier: Apache-2.0
"""The headline and the paragraph: which facts they name in which case, and that no rule id and no code slips in."""

import re
from typing import Any

import pytest
from finetree_recommender.estimator.values import Catalog
from finetree_recommender.explain import cautions
from finetree_recommender.messages.summary import UPGRADE_WORDS, headline, paragraph
from finetree_recommender.method import Method
from finetree_recommender.recommend import conclude
from finetree_recommender.request.inputs import normalize
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_runtime.money import to_money
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


GPU16 = {"unknown_accelerator": {"marketed_memory_gb": 16}}
GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
CPU = {"cpu": {"cores": 2, "memory_bytes": 2**34}}
ROWS = {"dataset_profile": {"examples": 500}}


def answered(pack, read, found, **fields: Any):
    missing = "" if found is not None else cautions.ESTIMATOR_UNAVAILABLE
    return conclude(pack, read(**fields), found, missing=missing)


def test_it_names_method_hardware_and_what_the_run_takes_in_three_sentences(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS", adapter="FITS")
    words = paragraph(answered(pack, read, found, hardware=GPU24, quality="QUALITY_NEED_IMPORTANT", **ROWS))
    assert words.startswith("Use LoRA: ")
    for part in ("about 10 GiB of 8", "a 24 GB GPU", "about 1.5 min", "about $1.00"):
        assert part in words
    assert words.count(". ") <= 2


def test_a_time_of_rows_of_unknown_length_has_its_lower_end_for_short_rows(pack, read, evidence):
    found = evidence(lora="FITS")
    row = found.rows[Method.LORA, 0]
    row.total_seconds.low, row.total_seconds.high = 600, 40_000
    row.total_seconds.expected = 16_200
    unknown = paragraph(answered(pack, read, found, hardware=GPU24, **ROWS))
    assert "about 4.5 h, at most 12 h; 10 min if rows are short" in unknown
    rows = {"dataset_profile": {"examples": 500, "total_tokens": 100_000}}
    assert "about 4.5 h (10 min to 12 h)" in paragraph(answered(pack, read, found, hardware=GPU24, **rows))


def test_on_a_cpu_the_first_words_are_how_long_it_takes_and_whose_speed_it_is(pack, read, evidence):
    found = evidence(lora="FITS")
    assumed = answered(pack, read, found, hardware=CPU, **ROWS)
    assert headline(assumed).startswith("LoRA, in about 1.5 min on a CPU at the assumed speed of 2 cores: ")
    rates = {"matrix_rates": {"fp32_flops_per_second": 2e11, "bf16_flops_per_second": 1e12}}
    measured = answered(pack, read, found, hardware=CPU, **rates, **ROWS)
    assert "TFLOP/s" in headline(measured)
    assert "takes about 1.5 min at its measured" in paragraph(measured)


def test_an_advised_upgrade_names_what_fits_all_the_same(pack, read, evidence):
    answer = answered(pack, read, evidence(lora="FITS"), hardware=CPU, **ROWS)
    assert f'"{UPGRADE_WORDS}"' in paragraph(answer)
    assert "LoRA" in paragraph(answer)
    assert headline(answer).startswith("LoRA, in about ")


def test_where_nothing_fits_an_upgrade_is_all_that_is_recommended(pack, read, evidence):
    no_gpu, too_large = (answered(pack, read, evidence(), hardware=device) for device in (CPU, GPU24))
    assert f'"{UPGRADE_WORDS}"' in paragraph(no_gpu)
    assert "Expect" not in paragraph(no_gpu)
    assert too_large.decision.method is None
    assert paragraph(too_large).startswith("Upgrade the hardware: playbook-1 prefers LoRA")


def test_where_the_rules_refuse_the_device_and_no_model_is_named_it_is_asked_for(pack, read):
    """By the rules alone 6 GB train nothing; a small model may all the same, which only the estimate can say."""
    device = {"unknown_accelerator": {"marketed_memory_gb": 6}}
    unnamed = read(hardware=device).request
    unnamed.ClearField("model")
    answer = conclude(pack, normalize(unnamed, pack, Catalog(models={})), None, missing=cautions.MODEL_UNKNOWN)
    assert answer.decision.method is None
    assert headline(answer).startswith("Name the model: ")


@pytest.mark.parametrize(("pack_id", "title"), [("playbook-1", "adapter layers"), ("evidence-1", "LoRA")])
def test_many_tasks_are_the_reason_of_the_method_made_for_them(read, evidence, pack_id, title):
    found = evidence(lora="FITS", adapter="FITS")
    many = {"hardware": GPU24, "tasks": "TASK_VARIETY_MANY_DIFFERENT"}
    first = paragraph(answered(builtin_packs()[pack_id], read, found, **many)).partition(". ")[0]
    assert first.startswith(f"Use {title}: ")
    assert "many different tasks" in first


def test_a_method_that_does_not_fit_is_named_beside_the_one_that_does(pack, read, evidence):
    first = paragraph(answered(pack, read, evidence(qlora="FITS"), hardware=GPU24, **ROWS)).partition(". ")[0]
    assert first.startswith("Use QLoRA: ")
    assert "prefer LoRA" in first


def test_where_memory_rules_out_what_was_asked_for_the_headline_says_so(read, evidence):
    rules = builtin_packs()["evidence-1"]
    inputs = read(hardware=GPU24, quality="QUALITY_NEED_MAXIMUM", dataset_profile={"examples": 5000}).reread(rules)
    too_large = "the rules prefer full fine-tuning, which does not fit in memory; "
    line = headline(conclude(rules, inputs, evidence(lora="FITS", qlora="FITS")))
    assert line == f"LoRA: {too_large}of the methods that do, they prefer this one"
    assert headline(conclude(rules, inputs, evidence(prefix="FITS"))) == f"Prefix tuning: {too_large}this method does"
    # The tree prefers all weights to a LoRA of unsure quality, and here to nothing: LoRA was its choice for few rows.
    few = read(hardware=GPU24, quality="QUALITY_NEED_CRITICAL", dataset_profile={"examples": 500}).reread(rules)
    assert headline(conclude(rules, few, evidence(full="FITS"))).startswith("Full fine-tuning: the rules prefer LoRA, ")
    # QLoRA's own reason says that a 16-bit base does not fit; what fits was preferred.
    important = read(hardware=GPU24, quality="QUALITY_NEED_IMPORTANT").reread(rules)
    assert "prefer" not in headline(conclude(rules, important, evidence(qlora="FITS")))
    assert "prefer" not in headline(conclude(rules, important, evidence(lora="FITS")))


def test_a_method_without_an_estimate_that_breaks_a_limit_is_not_said_to_lack_memory(pack, read, evidence):
    fields = {"hardware": GPU24, "tasks": "TASK_VARIETY_MANY_DIFFERENT", "serving": ["SERVING_TARGET_VLLM"]}
    line = headline(answered(pack, read, evidence(lora="FITS", adapter=None), **fields))
    assert line.startswith("LoRA: the rules prefer adapter layers, but ")
    assert "vLLM" in line
    line = headline(answered(pack, read, evidence(lora="FITS"), **fields))
    assert line == "LoRA: the rules prefer adapter layers, which do not fit in memory; this method does"


def test_a_tie_names_all_methods_in_one_row(pack, read, evidence):
    fields = {"hardware": GPU24, "time": "TIME_NEED_MINUTES", "dataset_profile": {"examples": 500}}
    found = evidence(lora="FITS", qlora="FITS", prefix="FITS")
    assert "your answers favor it and prefix tuning equally" in headline(answered(pack, read, found, **fields))
    fields["budget_per_month"] = usd(75)
    assert "your answers favor it, QLoRA and prefix tuning equally" in headline(answered(pack, read, found, **fields))


def test_of_several_gpus_each_has_the_memory(pack, read, evidence):
    words = paragraph(answered(pack, read, evidence(lora="FITS"), hardware={**GPU24, "count": 8}, **ROWS))
    assert "each of the 8 GPUs with 24 GB" in words


def test_hardware_alone_is_the_reason_where_nothing_else_was_answered(pack, read, evidence):
    words = paragraph(answered(pack, read, evidence(lora="FITS"), hardware=GPU24))
    assert "a 24 GB GPU" in words.partition(". ")[0]


def test_a_risk_comes_before_what_is_merely_unknown(pack, read, evidence):
    answer = answered(pack, read, evidence(lora="TIGHT"), hardware=GPU24)
    by_code = {caution.code: caution.message for caution in answer.cautions}
    assert by_code["MEMORY_TIGHT"] in paragraph(answer)
    assert by_code["DATASET_UNKNOWN"] not in paragraph(answer)


def test_without_estimates_there_are_no_figures_of_memory(pack, read):
    words = paragraph(answered(pack, read, None, hardware=GPU24, **ROWS))
    assert "not estimated" in words
    assert "GiB" not in words


def test_what_would_decide_is_asked_for_and_nothing_else(pack, read, evidence):
    def asked(found, **fields: Any) -> str:
        return paragraph(answered(pack, read, found, **fields)).partition("For a more certain answer, state ")[2]

    assert asked(None).startswith("the hardware, the time available and the budget.")
    given = {"budget_per_month": usd(300), "quality": "QUALITY_NEED_IMPORTANT", "time": "TIME_NEED_HOURS"}
    assert not asked(evidence(lora="FITS"), hardware=GPU24, tasks="TASK_VARIETY_SIMILAR", **given)


@pytest.mark.parametrize("pack_id", builtin_packs())
@pytest.mark.parametrize("hardware", [None, CPU, GPU16, GPU24])
def test_the_paragraph_has_no_rule_id_and_no_code(pack_id, hardware, read, evidence):
    pack = builtin_packs()[pack_id]
    fields = {"hardware": hardware} if hardware else {}
    for found in (None, evidence(lora="FITS", qlora="TIGHT"), evidence(full="FITS"), evidence()):
        words = paragraph(answered(pack, read, found, **fields))
        assert not re.search(r"[A-Z]{2,}_[A-Z]|\b[a-z]+\.[a-z_]+\.|\brule [a-zA-Z]+\.|\b(?:pareto|votes\.)", words), (
            words
        )
        assert "  " not in words
        assert words.endswith(".")
