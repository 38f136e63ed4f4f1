# SPDX-License-Identifier: Apache-2.0
"""CheckServing over loopback: for runs and for what is there, with and without an estimator."""

import finetree
import pytest
from finetree_api.recommender.v1 import serving_pb2
from finetree_api.types.v1 import serving_pb2 as types
from google.protobuf import json_format

SPEC = {"model": {"name": "qwen2.5-0.5b"}, "lora": {"rank": 64}}


@pytest.mark.service_alone("verdict")
async def test_a_run_is_judged_with_what_the_catalog_knows_of_its_model(client):
    reply = await client.check_serving(SPEC)
    assert {check.server for check in reply.checks} == set(types.ServingTarget.values()) - {0}
    by_server = {check.server: check for check in reversed(reply.checks)}
    vllm = by_server[types.SERVING_TARGET_VLLM]
    assert vllm.verdict == types.SERVING_VERDICT_SERVES_WITH
    assert "vllm serve Qwen/Qwen2.5-0.5B" in vllm.steps[0]
    assert "add --max-lora-rank 64" in vllm.steps
    assert vllm.source_url.startswith("https://github.com/vllm-project/vllm/blob/v")
    ollama = by_server[types.SERVING_TARGET_OLLAMA]
    assert (ollama.verdict, list(ollama.rule_ids)) == (types.SERVING_VERDICT_NOT, ["ollama.lora.family"])
    assert "qwen2" in ollama.message
    assert ollama.remedy


@pytest.mark.service_alone("verdict")
async def test_a_server_at_a_version_is_asked_alone(client):
    reply = await client.check_serving({**SPEC, "lora": {"weight_decomposed": True}}, servers={"sglang": "0.5.3"})
    (check,) = reply.checks
    assert (check.server, check.versions) == (types.SERVING_TARGET_SGLANG, "0.5.3")
    assert (check.verdict, check.silent) == (types.SERVING_VERDICT_NOT, True)
    (other,) = (await client.check_serving(SPEC, servers=["llama.cpp"])).checks
    assert other.server == types.SERVING_TARGET_LLAMA_CPP


@pytest.mark.service_alone("verdict")
async def test_without_an_estimator_the_family_is_unknown_and_a_step(recommender):
    async with recommender("127.0.0.1:1") as alone:
        (check,) = (await alone.check_serving(SPEC, servers=["ollama"])).checks
        shaped = {**SPEC, "model": {"shape": SHAPE}}
        (known,) = (await alone.check_serving(shaped, servers=["ollama"])).checks
    assert check.verdict == types.SERVING_VERDICT_SERVES_WITH
    assert check.steps[0] == "the base must be of one of these families: gemma2, llama, mistral"
    assert known.rule_ids == ["ollama.lora"]


SHAPE = {"hidden_size": 64, "layers": 1, "intermediate_size": 64, "attention_heads": 1, "vocab_size": 64}
SHAPE |= {"family": "llama"}


@pytest.mark.service_alone("verdict")
async def test_files_that_are_there_are_judged_by_their_own_values(client):
    made = serving_pb2.ServedResult(form=serving_pb2.SERVED_FORM_LORA, rank=8, modules_to_save=["model.lm_head"])
    made.family = "llama"
    (check,) = (await client.check_serving(made, servers=["vllm"])).checks
    assert list(check.rule_ids) == ["vllm.lora.saved"]
    gguf = serving_pb2.ServedResult(form=serving_pb2.SERVED_FORM_GGUF_MODEL)
    (check,) = (await client.check_serving(gguf, servers=["llama.cpp"])).checks
    assert check.verdict == types.SERVING_VERDICT_SERVES


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, "subject"),
        ({"spec": {"model": {"name": "x"}}}, "spec"),
        ({"result": {}}, "result.form"),
        ({"result": {"form": "SERVED_FORM_LORA", "rank": 0}}, "result.rank"),
        ({"spec": SPEC, "servers": [{"version": "1.0"}]}, "servers[0].server"),
        ({"spec": SPEC, "servers": [{"server": "SERVING_TARGET_VLLM", "version": "newest"}]}, "servers[0].version"),
        ({"spec": SPEC, "servers": [{"server": "SERVING_TARGET_VLLM"}] * 17}, "servers"),
    ],
)
async def test_a_wrong_request_names_its_field(client, request_, field):
    asked = json_format.ParseDict(request_, serving_pb2.CheckServingRequest())
    with pytest.raises(finetree.InvalidArgument) as refused:
        await client.check_serving(asked)
    assert refused.value.reason == "INVALID_REQUEST"
    assert [violation.field for violation in refused.value.violations] == [field]


async def test_a_server_that_does_not_exist_is_refused_before_anything_is_sent(client):
    with pytest.raises(finetree.InvalidArgument, match="known are vllm, ollama"):
        await client.check_serving(SPEC, servers=["tensorrt"])
