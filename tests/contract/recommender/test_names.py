# SPDX-License-Identifier: Apache-2.0
"""Models by the names of their instructed checkpoints or by their shape, and other makers' accelerators."""

import pytest
from finetree_api.types.v1 import evidence_pb2, method_pb2

SHORT_ROWS = {"examples": 600, "token_lengths": [{"upper_bound": 90, "count": 600}]}
LONG_ROWS = {"examples": 2000, "token_lengths": [{"upper_bound": 40000, "count": 2000}]}
SMALL_SHAPE = {
    "hidden_size": 576,
    "layers": 30,
    "intermediate_size": 1536,
    "attention_heads": 9,
    "kv_heads": 3,
    "vocab_size": 49152,
    "tied_embeddings": True,
    "gated_mlp": True,
    "max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("model", "same_as"),
    [
        ({"hub": {"id": "Qwen/Qwen2.5-0.5B-Instruct"}}, {"name": "qwen2.5-0.5b"}),
        ({"name": "mixtral-8x7b-instruct-v0.1"}, {"name": "mixtral-8x7b"}),
        ({"shape": SMALL_SHAPE}, {"name": "smollm2-135m-instruct"}),
    ],
)
@pytest.mark.service_alone("names")
async def test_an_instructed_model_and_a_shape_get_the_recipe_of_their_size_and_it_is_estimated(client, model, same_as):
    asked = {"hardware": {"accelerator": "h200"}, "quality": "QUALITY_NEED_MAXIMUM", "rule_pack": "evidence-1"}
    asked |= {"dataset_profile": LONG_ROWS}
    reply, other = [await client.recommend({"model": named, **asked}) for named in (model, same_as)]
    reply.spec.model.CopyFrom(other.spec.model)
    assert reply.spec == other.spec
    assert [item.code for item in reply.cautions] == [item.code for item in other.cautions]
    assert reply.estimate.device_bytes == other.estimate.device_bytes


@pytest.mark.service_alone("names")
async def test_spellings_of_model_and_system_are_understood_and_the_recipe_has_the_catalogs_names(client):
    reply = await client.recommend({"model": {"name": "llama3.1:8b"}, "hardware": {"accelerator": "dgx a100"}})
    assert reply.spec.model.name == "llama-3.1-8b"
    assert (reply.spec.hardware.accelerator, reply.spec.hardware.count) == ("a100-80gb", 8)
    assert reply.HasField("estimate")
    tuned = await client.recommend({"model": {"name": "Llama 3.2 3B Instruct"}, "hardware": {"accelerator": "4090"}})
    assert tuned.spec.model.hub.id == "meta-llama/Llama-3.2-3B-Instruct"


@pytest.mark.service_alone("verdict")
async def test_an_accelerator_that_is_not_supported_is_answered_by_its_memory_and_said_to_be_so(client):
    asked = {"model": {"name": "llama-3.1-8b"}, "dataset_profile": SHORT_ROWS}
    reply = await client.recommend(asked | {"hardware": {"accelerator": "RX 7900 XTX"}})
    same = await client.recommend(asked | {"hardware": {"unknown_accelerator": {"marketed_memory_gb": 24}}})
    assert reply.verdict.method == same.verdict.method == method_pb2.METHOD_LORA
    assert reply.estimate == same.estimate
    assert reply.verdict.headline.startswith("AMD Radeon RX 7900 XTX is not supported yet;")
    assert reply.summary.startswith("AMD Radeon RX 7900 XTX is not supported yet:")
    assert (reply.confidence.abstained, reply.confidence.level) == (True, evidence_pb2.CONFIDENCE_LEVEL_LOW)
    unknown = await client.recommend(asked | {"hardware": {"accelerator": "M3 Max"}})
    assert [item.code for item in unknown.cautions][:2] == ["MEMORY_UNKNOWN", "ACCELERATOR_NOT_SUPPORTED"]
    assert not unknown.HasField("estimate")
    assert unknown.spec.hardware.WhichOneof("device") is None
