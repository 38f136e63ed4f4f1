# SPDX-License-Identifier: Apache-2.0
"""What the servers are said to serve, against what their code does."""

import json
import math
from importlib import metadata

import pytest
from finetree_api.types.v1 import serving_pb2
from finetree_runtime.serving.check import Asked, check
from finetree_runtime.serving.facts import Facts, Form

VLLM, OLLAMA, LLAMA_CPP = (
    serving_pb2.ServingTarget.Value(f"SERVING_TARGET_{n}") for n in ("VLLM", "OLLAMA", "LLAMA_CPP")
)
TRANSFORMERS, TGI, SGLANG = (
    serving_pb2.ServingTarget.Value(f"SERVING_TARGET_{n}") for n in ("TRANSFORMERS", "TGI", "SGLANG")
)
SERVES, WITH, NOT, UNKNOWN = (
    serving_pb2.SERVING_VERDICT_SERVES,
    serving_pb2.SERVING_VERDICT_SERVES_WITH,
    serving_pb2.SERVING_VERDICT_NOT,
    serving_pb2.SERVING_VERDICT_UNSPECIFIED,
)


def one(facts: Facts, target: int, version: str = "99.0") -> serving_pb2.ServingCheck:
    (answer,) = check(facts, [Asked(target, version)])
    return answer


def lora(**settings: object) -> Facts:
    return Facts(Form.LORA, **{"family": "llama", "base": "org/base", **settings})


@pytest.mark.parametrize(
    ("facts", "verdicts"),
    [
        (lora(), {VLLM: WITH, OLLAMA: WITH, LLAMA_CPP: WITH, TRANSFORMERS: SERVES, TGI: WITH, SGLANG: WITH}),
        (lora(dora=True), {VLLM: NOT, OLLAMA: NOT, LLAMA_CPP: NOT, TRANSFORMERS: SERVES, TGI: NOT, SGLANG: NOT}),
        (lora(saved=frozenset({"lm_head"})), {VLLM: NOT, OLLAMA: NOT, LLAMA_CPP: NOT, TRANSFORMERS: SERVES, TGI: NOT}),
        (lora(bias=True), {VLLM: NOT, OLLAMA: NOT, LLAMA_CPP: NOT, TRANSFORMERS: SERVES, TGI: NOT, SGLANG: NOT}),
        (lora(rank=600), {VLLM: NOT, OLLAMA: WITH, LLAMA_CPP: WITH, TGI: WITH, SGLANG: WITH}),
        (lora(family="gpt2", targets=frozenset({"c_attn"})), {VLLM: NOT, OLLAMA: NOT, LLAMA_CPP: WITH, SGLANG: NOT}),
        (lora(targets=frozenset({"v_proj"})), {VLLM: WITH, SGLANG: NOT, TGI: WITH}),
        (lora(targets=frozenset({"up_proj"})), {SGLANG: WITH}),
        (Facts(Form.PREFIX), {VLLM: NOT, OLLAMA: NOT, LLAMA_CPP: NOT, TRANSFORMERS: NOT, TGI: NOT, SGLANG: NOT}),
        (Facts(Form.BOTTLENECK), {VLLM: NOT, TRANSFORMERS: WITH, serving_pb2.SERVING_TARGET_FINETREE: SERVES}),
        (Facts(Form.MODEL, family="llama"), {VLLM: SERVES, OLLAMA: WITH, LLAMA_CPP: WITH, TRANSFORMERS: SERVES}),
        (Facts(Form.MODEL, family="qwen3"), {OLLAMA: NOT, LLAMA_CPP: WITH}),
        (Facts(Form.GGUF_LORA), {VLLM: NOT, OLLAMA: WITH, LLAMA_CPP: WITH, TRANSFORMERS: NOT, TGI: UNKNOWN}),
    ],
)
def test_a_result_is_served_where_the_code_loads_it(facts, verdicts):
    assert {target: one(facts, target).verdict for target in verdicts} == verdicts


@pytest.mark.parametrize(("rank", "flag"), [(16, None), (17, 32), (24, 32), (200, 256), (512, 512)])
def test_vllm_is_given_a_rank_that_its_flag_takes(rank, flag):
    flags = [step for step in one(lora(rank=rank), VLLM).steps if "--max-lora-rank" in step]
    assert flags == ([f"add --max-lora-rank {flag}"] if flag else [])


@pytest.mark.parametrize(("rank", "alpha"), [(16, 32.0), (64, 8.0), (8, 16.0)])
def test_rslora_becomes_a_plain_alpha_of_the_same_scale(rank, alpha):
    step = one(lora(rank=rank, alpha=alpha, rslora=True), SGLANG).steps[0]
    assert step.startswith("before that, set in adapter_config.json: lora_alpha to ")
    plain = float(step.split("lora_alpha to ")[1].split()[0])
    assert plain / rank == pytest.approx(alpha / math.sqrt(rank), rel=1e-5)


def test_ollama_takes_whole_alphas_alone():
    """Go's encoding/json refuses 16.5 for a uint32; of rsLoRA only a whole alpha of the same scale helps."""
    assert one(lora(alpha=16.5), OLLAMA).verdict == NOT
    assert one(lora(rank=16, alpha=32.0, rslora=True), OLLAMA).verdict == WITH
    fractional = one(lora(rank=8, alpha=16.0, rslora=True), OLLAMA)
    assert (fractional.verdict, fractional.silent) == (NOT, True)


def test_what_is_refused_is_not_silent_whatever_else_is_ignored():
    ignored = one(lora(dora=True), TGI)
    assert (ignored.verdict, ignored.silent, ignored.rule_ids) == (NOT, True, ["tgi.lora.dora"])
    refused = one(lora(dora=True, family="gpt2"), TGI)
    assert (refused.silent, refused.rule_ids[0]) == (False, "tgi.lora.family")
    assert refused.message.startswith("TGI's model of gpt2 has no layers that take adapters.")
    assert "magnitudes" in refused.message


def test_ranges_of_versions_are_told_apart_only_where_the_answer_differs():
    assert [each.versions for each in check(lora(), [Asked(SGLANG)])] == [">=0.4.6"]
    newer, older = check(lora(dora=True), [Asked(SGLANG)])
    assert (newer.versions, newer.silent) == (">=0.5.12", False)
    assert (older.versions, older.silent) == (">=0.4.6,<0.5.12", True)
    assert one(lora(dora=True), SGLANG, "v0.5.10").silent
    assert not one(lora(dora=True), SGLANG, "0.5.12").silent


def test_a_version_older_than_all_that_were_read_is_not_judged():
    answer = one(lora(), VLLM, "0.8.5")
    assert (answer.verdict, list(answer.steps), answer.remedy) == (UNKNOWN, [], "")
    assert "0.9.0" in answer.message
    assert one(lora(), VLLM, "1.0").verdict == WITH


def test_an_unknown_family_is_a_step_and_no_verdict():
    answer = one(lora(family=""), TGI)
    assert answer.verdict == WITH
    assert answer.steps[0].startswith("the base must be of one of these families: baichuan, gemma2, ")
    assert one(lora(family=""), VLLM).steps[0].startswith("the base must not be of one of these families: bloom, ")


def test_no_word_in_braces_is_left():
    for form in Form:
        for answer in check(Facts(form, rslora=True, dora=form is Form.MODEL, family="gpt2", rank=64)):
            text = " ".join([answer.message, answer.remedy, *answer.steps])
            assert "{" not in text
            assert "}" not in text


def test_the_versions_of_the_lock_lie_in_the_range_that_was_read():
    """What this repository is tested with must not be newer than what the rules were read from."""
    (newest, _) = (each for each in check(Facts(Form.PREFIX), [Asked(TRANSFORMERS)]))
    assert metadata.version("transformers") in newest.checked_versions
    assert metadata.version("peft") in newest.message


def test_answers_are_the_same_however_often_they_are_asked():
    first = [each.SerializeToString(deterministic=True) for each in check(lora())]
    assert first == [each.SerializeToString(deterministic=True) for each in check(lora())]
    assert json.dumps([each.decode("latin-1") for each in first])
