# SPDX-License-Identifier: Apache-2.0
"""The playbook's worked cases through the whole service, estimated by a real estimator.

A 7B model of the playbook's days stands for its examples; where physics overrules its words, both must be said.
"""

from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import method_pb2
from google.protobuf import json_format

pytestmark = pytest.mark.service_alone("verdict")
GIB = 2**30
MODEL_7B = "llama-2-7b"
MODEL_135M = "smollm2-135m-instruct"
SHORT_ROWS = {
    "examples": 1000,
    "token_lengths": [{"upper_bound": 128, "count": 600}, {"upper_bound": 448, "count": 400}],
}
MAXIMUM = {"quality": "QUALITY_NEED_MAXIMUM"}
MANY = {"tasks": "TASK_VARIETY_MANY_DIFFERENT"}


def gpu(gb: float) -> dict[str, Any]:
    return {"hardware": {"unknown_accelerator": {"marketed_memory_gb": gb}}}


def named(accelerator: str) -> dict[str, Any]:
    return {"hardware": {"accelerator": accelerator}}


def cpu(gib: int) -> dict[str, Any]:
    return {"hardware": {"cpu": {"cores": 4, "memory_bytes": gib * GIB}}}


async def ask(client, model: str, *parts: dict[str, Any]) -> recommendation_pb2.RecommendResponse:
    fields = {key: value for part in parts for key, value in part.items()}
    return await client.recommend({"model": {"name": model}, "dataset_profile": SHORT_ROWS, **fields})


def method(reply) -> str:
    return method_pb2.Method.Name(reply.verdict.method).removeprefix("METHOD_")


def overruled(reply) -> list[str]:
    return [step.overruled_rule_id for step in reply.trace if step.overruled_rule_id]


def assessment(reply, name: str) -> recommendation_pb2.MethodAssessment:
    return next(item for item in reply.methods if item.method == method_pb2.Method.Value(f"METHOD_{name}"))


@pytest.mark.parametrize(("rule_pack", "counts"), [("playbook-1", (5, 6, 5)), ("evidence-1", (6, 6, 4))])
async def test_every_situation_and_scenario_of_a_pack_gets_its_method(client, rule_pack, counts):
    guide = await client.method_guide(rule_pack=rule_pack)
    assert (len(guide.situations), len(guide.quick_reference), len(guide.scenarios)) == counts
    for case in (*guide.situations, *guide.quick_reference, *guide.scenarios):
        request = recommendation_pb2.RecommendRequest(model={"name": MODEL_7B}, rule_pack=rule_pack)
        request.MergeFrom(case.request)
        reply = await client.recommend(request)
        assert reply.verdict.method == case.method, case.id
        settings = json_format.MessageToDict(case.settings)
        if settings:
            assert settings.items() <= _part(reply.spec, settings).items(), case.id


def _part(spec, settings: dict[str, Any]) -> dict[str, Any]:
    """What a recipe says of the fields that a case names."""
    found = json_format.MessageToDict(spec)
    return {key: {name: found[key][name] for name in value} for key, value in settings.items()}


@pytest.mark.parametrize(
    ("hardware", "needs", "verdict", "gave_way"),
    [
        # The chart's rows; on 80 GB the tree asks for maximum quality first.
        (gpu(80), MAXIMUM, "FULL", []),
        (gpu(80), {}, "LORA", []),
        (gpu(40), {}, "LORA", []),
        (gpu(24), {}, "LORA", []),
        (gpu(16), {}, "QLORA", []),
        # A 16-bit base of 13.5 GB leaves prefix tuning no way: the playbook's words give way to a 4-bit base.
        (gpu(8), {}, "QLORA", ["votes.plurality"]),
        (gpu(4), {}, "UNSPECIFIED", []),
        # The same by the names that the chart gives.
        (named("a100-80gb"), MAXIMUM, "FULL", []),
        (named("a100-40gb"), {}, "LORA", []),
        (named("rtx-4090"), {}, "LORA", []),
        (named("rtx-4080"), {}, "QLORA", []),
        (named("gtx-1080"), {}, "QLORA", ["votes.plurality"]),
        (named("gtx-1050-ti"), {}, "UNSPECIFIED", []),
        # What hangs beside the tree.
        (gpu(24), MANY, "ADAPTER", []),
        (gpu(80), MANY | MAXIMUM, "FULL", []),
        (gpu(16), MANY, "QLORA", []),
    ],
)
async def test_the_hardware_chart_and_the_tree_at_7b(client, hardware, needs, verdict, gave_way):
    reply = await ask(client, MODEL_7B, hardware, needs)
    assert method(reply) == verdict
    assert overruled(reply) == gave_way
    assert reply.estimate.device_bytes.expected <= reply.estimate.usable_device_bytes
    if gave_way:
        reasons = [reason.code for reason in assessment(reply, "PREFIX").reasons]
        assert "DOES_NOT_FIT" in reasons
        assert any("prefix tuning" in step.outcome and step.stage == "votes" for step in reply.trace)


@pytest.mark.parametrize("rule_pack", ["playbook-1", "evidence-1"])
async def test_the_hardware_chart_of_a_pack_is_what_it_recommends(client, rule_pack):
    for row in (await client.method_guide(rule_pack=rule_pack)).hardware:
        model = MODEL_7B if row.marketed_memory_gb > 4 else "llama-3.2-1b"
        needs = MAXIMUM if row.method == method_pb2.METHOD_FULL else {}
        reply = await ask(client, model, gpu(row.marketed_memory_gb), needs, {"rule_pack": rule_pack})
        if rule_pack == "playbook-1" and row.marketed_memory_gb <= 8:
            # Its words on small GPUs are kept as words; what fits is tested above.
            continue
        # Short rows may leave room for a 16-bit base where published runs, with longer ones, had none.
        allowed = {row.method, method_pb2.METHOD_LORA} if rule_pack == "evidence-1" else {row.method}
        assert reply.verdict.method in allowed, row.accelerator


async def test_prefix_tuning_is_taken_at_8_gb_where_it_fits(client):
    reply = await ask(client, MODEL_135M, gpu(8))
    assert (method(reply), overruled(reply)) == ("PREFIX", [])


@pytest.mark.parametrize(
    ("model", "hardware", "rule", "verdict"),
    [
        (MODEL_135M, gpu(4), "gate.below_8", "LORA"),
        (MODEL_135M, cpu(4), "gate.cpu", "LORA"),
        (MODEL_7B, cpu(8), "gate.cpu", "QLORA"),
    ],
)
async def test_what_fits_is_recommended_where_the_playbook_says_upgrade(client, model, hardware, rule, verdict):
    reply = await ask(client, model, hardware)
    assert (method(reply), overruled(reply)) == (verdict, [rule])
    assert reply.verdict.upgrade_advised
    assert assessment(reply, verdict).device_bytes.expected <= reply.estimate.usable_device_bytes


@pytest.mark.parametrize("hardware", [gpu(4), cpu(4)])
async def test_a_7b_model_does_not_and_the_answer_says_what_is_lacking(client, hardware):
    reply = await ask(client, MODEL_7B, hardware)
    assert method(reply) == "UNSPECIFIED"
    assert reply.verdict.upgrade_advised
    assert "NOTHING_FITS" in [caution.code for caution in reply.cautions]
    assert not reply.HasField("spec")
    for name in ("FULL", "LORA"):
        lacks = [reason.message for reason in assessment(reply, name).reasons if reason.code == "DOES_NOT_FIT"]
        assert lacks, name
        assert "GiB" in lacks[0]


async def test_a_7b_model_on_a_large_cpu_takes_days_and_says_so(client):
    reply = await ask(client, MODEL_7B, cpu(64))
    assert (method(reply), overruled(reply)) == ("LORA", ["gate.cpu"])
    assert reply.estimate.total_seconds.expected > 10 * 3600


async def test_scenario_1_keeps_quality_and_budget(client):
    request = await scenario(client, "scenario.1")
    reply = await client.recommend(request)
    lora = assessment(reply, "LORA")
    assert lora.quality_percent.low >= 95
    # Without hardware the playbook's own figures are quoted: the promised 50 USD pay for several runs.
    assert 50 / lora.cost.amount.expected > 6
    assert lora.cost.amount.expected < request.budget_per_month.units


async def test_scenario_2_goes_by_the_memory_of_the_card_and_not_by_its_number(client):
    experiment = {"quality": "QUALITY_NEED_EXPERIMENTAL"}
    for name, rule in (("rtx-4060", "gate.8"), ("rtx-4060-ti", "gate.8"), ("rtx-4060-ti-16gb", "gate.16")):
        reply = await ask(client, MODEL_7B, named(name), experiment)
        assert reply.trace[0].rule_id == rule, name
        assert method(reply) == "QLORA", name


async def test_scenario_3_leaves_time_for_ten_ideas_a_day(client):
    request = await scenario(client, "scenario.3")
    request.dataset_profile.examples = 1000
    reply = await client.recommend(request)
    assert 8 * 3600 / assessment(reply, "PREFIX").total_seconds.expected >= 10


async def test_scenario_4_on_40_gb_is_lora_and_points_to_more(client):
    reply = await client.recommend(await scenario(client, "scenario.4_40gb"))
    caution = next(item for item in reply.cautions if item.code == "CAUTION_LORA_MAXIMUM")
    assert caution.redirect == method_pb2.METHOD_FULL
    more = [flip for flip in reply.counterfactuals if flip.resulting_method == method_pb2.METHOD_FULL]
    assert [flip.field_path for flip in more] == ["hardware"]


async def scenario(client, name: str) -> recommendation_pb2.RecommendRequest:
    found = next(item for item in (await client.method_guide()).scenarios if item.id == name)
    request = recommendation_pb2.RecommendRequest(model={"name": MODEL_7B})
    request.MergeFrom(found.request)
    return request
