# SPDX-License-Identifier: Apache-2.0
"""What holds of every answer, whichever method it recommends, and of what it was made from."""

import finetree
import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import estimate_summary_pb2, method_pb2
from finetree_runtime.runspec.paths import set_paths

ROWS = {"examples": 600, "total_tokens": 60_000}
CASES = {
    "a card": {"model": {"name": "llama-3.2-1b"}, "hardware": {"accelerator": "rtx-4090"}, "dataset_profile": ROWS},
    "a processor": {
        "model": {"name": "smollm2-135m-instruct"},
        "hardware": {"cpu": {"cores": 2, "memory_bytes": 16 << 30}},
        "dataset_profile": ROWS,
    },
    "no hardware": {"model": {"name": "llama-3.2-1b"}},
    "no model": {"hardware": {"accelerator": "rtx-4090"}},
    "too large": {"model": {"name": "llama-3.1-70b"}, "hardware": {"accelerator": "t4"}, "dataset_profile": ROWS},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_parts_of_an_answer_agree(client, case):
    reply = await client.recommend(case)
    chosen = [each.method for each in reply.methods if each.verdict == recommendation_pb2.METHOD_VERDICT_RECOMMENDED]

    assert sorted(each.method for each in reply.methods) == [1, 2, 3, 4, 5]
    assert all(each.reasons for each in reply.methods)
    assert not chosen or reply.methods[0].method == chosen[0]
    assert chosen == ([reply.verdict.method] if reply.verdict.method else [])
    assert reply.trace
    assert reply.summary
    assert reply.verdict.headline
    assert reply.confidence.definition
    if reply.verdict.method:
        name = method_pb2.Method.Name(reply.verdict.method).removeprefix("METHOD_").lower()
        assert reply.spec.WhichOneof("method") == name
        assert [source.field_path for source in reply.setting_sources] == set_paths(reply.spec)
        assert reply.plan_digest.startswith("sha256:")
    else:
        assert not reply.HasField("spec")
        assert not reply.plan_digest
        assert reply.ways_out[0].message in reply.verdict.headline


async def test_what_does_not_fit_is_not_recommended_and_a_way_out_is_named(client):
    reply = await client.recommend(CASES["too large"])
    assert reply.verdict.method == method_pb2.METHOD_UNSPECIFIED
    assert "NOTHING_FITS" in [caution.code for caution in reply.cautions]
    fits = await client.recommend(CASES["a card"])
    assert fits.estimate.fit == estimate_summary_pb2.FIT_VERDICT_FITS
    assert not fits.ways_out


async def test_the_inputs_are_those_of_the_request(client):
    reply = await client.recommend(CASES["a card"])
    values = {each.field_path: each.value for each in reply.inputs if each.known}
    assert {"model", "hardware", "dataset_profile.examples"} <= values.keys()
    assert "llama-3.2-1b" in values["model"]
    assert "rtx-4090" in values["hardware"]
    assert {each.value for each in reply.inputs if not each.known} == {"unknown"}
    assert "quality" not in values


async def test_the_five_methods_have_a_card_each(client):
    cards = await client.list_methods()
    assert sorted(card.method for card in cards) == [1, 2, 3, 4, 5]
    assert all(card.title for card in cards)


async def test_each_answer_to_a_question_of_a_pack_is_a_request(client):
    async for pack in client.list_rule_packs():
        found = await client.get_rule_pack(pack.id)
        assert found.rule_pack == pack
        assert found.questions
        for question in found.questions:
            assert question.text
            for option in question.options:
                request = recommendation_pb2.RecommendRequest(rule_pack=pack.id)
                request.MergeFrom(option.request)
                assert (await client.recommend(request)).revision.pack.id == pack.id


async def test_packs_come_in_pages(client):
    listed = [pack async for pack in client.list_rule_packs(page_size=1)]
    assert [pack.default for pack in listed] == [True, *[False] * (len(listed) - 1)]
    with pytest.raises(finetree.InvalidArgument) as refused:
        [pack async for pack in client.list_rule_packs(page_token="forged")]
    assert refused.value.reason == "PAGE_TOKEN_INVALID"
