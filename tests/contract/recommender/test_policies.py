# SPDX-License-Identifier: Apache-2.0
from typing import Any

from finetree_api.recommender.v1 import recommender_pb2 as rec


def on_gpu(gb: float, model: str = "llama-3.1-8b", **fields: Any) -> dict[str, Any]:
    return {"model": {"name": model}, "hardware": {"unknown_accelerator": {"marketed_memory_gb": gb}}, **fields}


DIFFERS = on_gpu(24, "llama-3.2-1b", quality="QUALITY_NEED_EXPERIMENTAL", time="TIME_NEED_MINUTES", budget_usd_month=20)


async def test_the_other_pack_speaks_from_the_same_estimates(client):
    reply = await client.recommend(DIFFERS)
    asked = await client.recommend(DIFFERS | {"policy": "evidence-1"})
    (other,), (mine,) = reply.other_packs, asked.other_packs
    assert (other.policy, other.method) == ("evidence-1", rec.METHOD_LORA)
    assert (mine.policy, mine.method) == ("playbook-1", rec.METHOD_PREFIX)
    assert (asked.verdict.method, reply.verdict.method) == (rec.METHOD_LORA, rec.METHOD_PREFIX)
    assert (other.rule_id, other.other_rule_id) == (reply.verdict.rule_id, asked.verdict.rule_id)
    assert other.sha256 == asked.revision.pack.sha256
    assert not other.agrees
    assert other.reason == (
        "evidence-1: LORA, the tree leads to it (E5), not PREFIX: no answer decides, and rule E5 leads to LORA; "
        "playbook-1: PREFIX, most votes of the questions answered (3) (votes.plurality), not LORA: 1 < 3 votes"
    )


async def test_packs_that_agree_say_so_and_nothing_else(client):
    reply = await client.recommend(on_gpu(24, quality="QUALITY_NEED_IMPORTANT"))
    (other,) = reply.other_packs
    assert other.agrees
    assert not other.reason


async def test_the_playbooks_words_stand_beside_evidence_where_it_takes_qlora_on_8_gb(client):
    reply = await client.recommend(on_gpu(8, "llama-2-7b", policy="evidence-1", dataset_profile={"examples": 1000}))
    assert reply.verdict.method == rec.METHOD_QLORA
    assert not reply.verdict.upgrade_advised
    assert reply.trace[0].rule_id == "gate.physics"
    (other,) = reply.other_packs
    assert other.agrees
    assert other.reason.startswith("playbook-1 leads to PREFIX (")
    assert "PREFIX needs" in other.reason


async def test_a_cpu_is_no_upgrade_where_the_estimate_shows_that_a_model_trains(client):
    cpu = {"model": {"name": "smollm2-135m-instruct"}, "hardware": {"cpu": {"cores": 2, "memory_bytes": 16 * 2**30}}}
    reply = await client.recommend(cpu | {"policy": "evidence-1"})
    assert (reply.verdict.method, reply.verdict.upgrade_advised) == (rec.METHOD_LORA, False)
    assert reply.other_packs[0].reason == "playbook-1 says to upgrade (gate.cpu); by the estimate LORA trains here"
