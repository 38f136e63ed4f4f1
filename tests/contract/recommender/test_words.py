# SPDX-License-Identifier: Apache-2.0
"""Texts for people name the methods as people do: LoRA, QLoRA, full fine-tuning, prefix tuning, adapter layers."""

import re
from collections.abc import Iterator

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

PACK_WORDS = re.compile(r"\b(LORA|QLORA|PREFIX|FULL|ADAPTER)\b")
"""Names that packs use."""
FOR_PROGRAMS = ("id", "from_id", "to_id", "from_node", "to_node", "taken_ids", "yaml", "value", "source", "locator")
"""Fields with ids and values of programs, and those that name a source as it stands (Ollama has a word ADAPTER)."""

CASES = {
    "plain": {"hardware": {"accelerator": "rtx-4090"}},
    "nothing fits": {"hardware": {"accelerator": "rtx-4090", "count": 2}, "model": {"name": "llama-3.1-70b"}},
    "small gpu": {"hardware": {"unknown_accelerator": {"marketed_memory_gb": 8}}, "can_rent": True},
    "cpu without memory": {"hardware": {"cpu": {}}},
    "unknown hardware": {"can_rent": True},
    "limits": {
        "hardware": {"accelerator": "rtx-4090"},
        "max_duration": "600s",
        "budget_per_run": "0.01 USD",
        "quality": "QUALITY_NEED_MAXIMUM",
        "tasks": "TASK_VARIETY_MANY_DIFFERENT",
        "time": "TIME_NEED_MINUTES",
        "serving": ["SERVING_TARGET_VLLM", "SERVING_TARGET_LLAMA_CPP"],
        "priorities": ["PRIORITY_MEMORY"],
    },
    "code": {"hardware": {"accelerator": "a100-80gb"}, "task_domain": "TASK_DOMAIN_CODE"},
}


def texts(message: Message, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a message that people read, with its path."""
    for field, value in message.ListFields():
        if field.name in FOR_PROGRAMS or (field.message_type and field.message_type.GetOptions().map_entry):
            continue
        for item in value if field.is_repeated else [value]:
            if field.message_type is not None:
                yield from texts(item, f"{path}.{field.name}")
            elif isinstance(item, str):
                yield f"{path}.{field.name}", item


def wrong(message: Message) -> list[tuple[str, str]]:
    return [(path, text) for path, text in texts(message) if PACK_WORDS.search(text)]


@pytest.mark.parametrize("rule_pack", ["playbook-1", "evidence-1"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.service_alone("rule packs")
async def test_a_recommendation_names_methods_as_people_do(client, case, rule_pack):
    fields = {"model": {"name": "llama-3.1-8b"}, "dataset_profile": {"examples": 5000}, "rule_pack": rule_pack, **case}
    reply = await client.recommend(fields)
    assert wrong(reply) == []
    assert list(texts(reply))
    request = json_format.ParseDict({"rule_pack": rule_pack}, recommendation_pb2.RecommendRequest())
    assert wrong(await client.render_decision_tree(request)) == []


@pytest.mark.parametrize("rule_pack", ["playbook-1", "evidence-1"])
@pytest.mark.service_alone("rule packs")
async def test_a_rule_pack_and_its_cards_name_methods_as_people_do(client, rule_pack):
    assert wrong(await client.get_rule_pack(rule_pack)) == []
    assert wrong(await client.method_guide(rule_pack=rule_pack)) == []
    assert [wrong(card) for card in await client.list_methods(rule_pack=rule_pack)] == [[]] * 5
