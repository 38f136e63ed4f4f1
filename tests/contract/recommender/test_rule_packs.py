# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from typing import Any

import finetree
import grpc
import pytest
from finetree_api.recommender.v1 import recommendation_pb2, rule_pack_pb2
from finetree_api.types.v1 import method_pb2
from finetree_runtime.money import to_money
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


def on_gpu(gb: float, model: str = "llama-3.1-8b", **fields: Any) -> dict[str, Any]:
    return {"model": {"name": model}, "hardware": {"unknown_accelerator": {"marketed_memory_gb": gb}}, **fields}


DIFFERS = on_gpu(
    24, "llama-3.2-1b", quality="QUALITY_NEED_EXPERIMENTAL", time="TIME_NEED_MINUTES", budget_per_month=usd(20)
)


@pytest.mark.service_alone("rule packs")
async def test_the_other_packs_verdict_is_from_the_same_estimates(client):
    reply = await client.recommend(DIFFERS)
    asked = await client.recommend(DIFFERS | {"rule_pack": "evidence-1"})
    (other,), (mine,) = reply.other_packs, asked.other_packs
    assert (other.rule_pack, other.method) == ("evidence-1", method_pb2.METHOD_LORA)
    assert (mine.rule_pack, mine.method) == ("playbook-1", method_pb2.METHOD_PREFIX)
    assert (asked.verdict.method, reply.verdict.method) == (method_pb2.METHOD_LORA, method_pb2.METHOD_PREFIX)
    assert (other.rule_id, other.other_rule_id) == (reply.verdict.rule_id, asked.verdict.rule_id)
    assert other.sha256 == asked.revision.pack.sha256
    assert not other.agrees
    # Why either pack takes its method and not the other's, with the deciding rules.
    assert all(word in other.reason for word in ("evidence-1", "LoRA (E5)", "playbook-1", "prefix tuning (", "1 vote "))


@pytest.mark.service_alone("rule packs")
async def test_packs_that_agree_say_so_and_nothing_else(client):
    reply = await client.recommend(on_gpu(24, quality="QUALITY_NEED_IMPORTANT"))
    (other,) = reply.other_packs
    assert other.agrees
    assert not other.reason


@pytest.mark.service_alone("rule packs")
async def test_the_playbooks_preference_is_named_where_evidence_takes_qlora_on_8_gb(client):
    reply = await client.recommend(on_gpu(8, "llama-2-7b", rule_pack="evidence-1", dataset_profile={"examples": 1000}))
    assert reply.verdict.method == method_pb2.METHOD_QLORA
    assert not reply.verdict.upgrade_advised
    assert reply.trace[0].rule_id == "gate.physics"
    (other,) = reply.other_packs
    assert other.agrees
    assert other.rule_pack == "playbook-1"
    assert all(fact in other.reason for fact in ("prefix tuning (", "24.0 GiB"))


@pytest.mark.service_alone("rule packs")
async def test_a_cpu_is_no_upgrade_where_the_estimate_shows_that_a_model_trains(client):
    cpu = {"model": {"name": "smollm2-135m-instruct"}, "hardware": {"cpu": {"cores": 2, "memory_bytes": 16 * 2**30}}}
    reply = await client.recommend(cpu | {"rule_pack": "evidence-1"})
    assert (reply.verdict.method, reply.verdict.upgrade_advised) == (method_pb2.METHOD_LORA, False)
    (other,) = reply.other_packs
    assert (other.rule_pack, other.agrees) == ("playbook-1", True)
    assert "gate.cpu" in other.reason


@pytest.mark.parametrize(
    ("gb", "model", "smaller"), [(6, "llama-3.1-8b", "llama-3.2-1b"), (48, "llama-3.1-405b", "llama-3.1-8b")]
)
@pytest.mark.service_alone("rule packs")
async def test_where_nothing_fits_what_would_train_is_named(client, gb, model, smaller):
    request = on_gpu(gb, model, rule_pack="evidence-1")
    reply = await client.recommend(request)
    assert reply.verdict.method == method_pb2.METHOD_UNSPECIFIED
    assert not reply.HasField("spec")
    assert reply.ways_out[0].message in reply.verdict.headline
    ways = {way.kind: way for way in reversed(reply.ways_out)}
    way = ways[recommendation_pb2.WAY_OUT_KIND_SMALLER_MODEL]
    assert way.change.model.name == smaller
    # The same request with the change is answered with that method.
    request["model"] = {"name": smaller}
    changed = await client.recommend(request)
    assert changed.verdict.method == way.method
    assert changed.estimate.device_bytes == way.estimate.device_bytes


@pytest.mark.service_alone("rule packs")
async def test_the_packs_are_listed_with_their_hashes(client):
    playbook, evidence = [pack async for pack in client.list_rule_packs()]
    assert (playbook.id, playbook.default, playbook.origin) == (
        "playbook-1",
        True,
        rule_pack_pb2.RULE_PACK_ORIGIN_BUILT_IN,
    )
    assert (evidence.id, evidence.default, evidence.extends) == ("evidence-1", False, "playbook-1")
    assert {len(item.sha256) for item in (playbook, evidence)} == {64}


@pytest.mark.service_alone("rule packs")
async def test_a_pack_is_given_with_its_rules_its_tree_and_its_file(client):
    found = await client.get_rule_pack("evidence-1")
    assert found.yaml.splitlines()[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert [question.field_path for question in found.questions] == [
        "hardware",
        "budget_per_month",
        "quality",
        "time",
        "tasks",
    ]
    assert found.root == "E1"
    nodes = {node.id for node in found.nodes}
    assert {edge.from_id for edge in found.edges} | {edge.to_id for edge in found.edges} == nodes
    ids = [rule.id for rule in found.rules]
    assert len(ids) == len(set(ids))
    assert {"gate.physics", "prior.lora.code", "dont.prefix.dominated", "recipe.rank.knowledge"} <= set(ids)
    assert all(rule.words for rule in found.rules)
    assert {"B20", "B36"} <= {item.id for item in found.resolutions}


@pytest.mark.service_alone("rule packs")
async def test_every_rule_of_a_trace_is_in_the_pack(client):
    for name in ("playbook-1", "evidence-1"):
        rules = {rule.id for rule in (await client.get_rule_pack(name)).rules}
        reply = await client.recommend(on_gpu(8, quality="QUALITY_NEED_IMPORTANT", rule_pack=name))
        named = {step.rule_id for step in reply.trace if step.stage in ("hardware_gate", "tree", "upgrade")}
        assert named
        assert named <= rules


async def test_a_pinned_pack_must_be_the_loaded_one(client):
    async for pack in client.list_rule_packs():
        loaded = await client.recommend(on_gpu(24, rule_pack=pack.id, pinned={"pack": {"sha256": pack.sha256}}))
        assert loaded.revision.pack.id == pack.id
        with pytest.raises(finetree.FailedPrecondition) as error:
            await client.recommend(on_gpu(24, rule_pack=pack.id, pinned={"pack": {"sha256": "0" * 64}}))
        assert error.value.reason == "REVISION_UNAVAILABLE"
    pinned = rule_pack_pb2.GetRulePackRequest(rule_pack=pack.id, pinned={"sha256": "0" * 64})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.raw.recommender.GetRulePack(pinned)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.service_alone("process")
async def test_an_own_pack_decides_and_is_listed(recommender, free_address, tmp_path):
    (tmp_path / "house.yaml").write_text('id: house\ndate: "2026-01-02"\ntitle: House\nextends: evidence-1\n')
    async with recommender(free_address, rule_pack_dir=tmp_path) as client:
        *_, house = [pack async for pack in client.list_rule_packs(page_size=2)]
        assert (house.id, house.origin, house.extends) == ("house", rule_pack_pb2.RULE_PACK_ORIGIN_FOLDER, "evidence-1")
        reply = await client.recommend(on_gpu(24, rule_pack="house"))
        assert reply.revision.pack.sha256 == house.sha256
        assert [item.rule_pack for item in reply.other_packs] == ["playbook-1", "evidence-1"]


@pytest.mark.service_alone("process")
def test_a_broken_pack_stops_the_start_and_names_the_rule(tmp_path):
    (tmp_path / "house.yaml").write_text(
        'id: house\ndate: "2026-01-02"\ntitle: House\nextends: playbook-1\n'
        "use_cases:\n  - {id: ours, when: {weather: [FINE]}, method: LORA, source: 'playbook L1'}\n"
    )
    command = [
        sys.executable,
        "-m",
        "finetree_recommender",
        "--address",
        "127.0.0.1:0",
        "--rule-pack-dir",
        str(tmp_path),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "RULE_PACK_INVALID: --rule-pack-dir (FINETREE_RECOMMENDER_RULE_PACK_DIR): house.yaml: line 6: "
    )
    assert "rule ours: no input 'weather'" in ended.stderr
    assert str(tmp_path) not in ended.stderr
