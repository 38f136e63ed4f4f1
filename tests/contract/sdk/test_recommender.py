# SPDX-License-Identifier: Apache-2.0
"""The calls of the recommender over the wire."""

import finetree
import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.recommender.v1 import serving_pb2 as recommender_serving_pb2
from finetree_api.types.v1 import method_pb2, serving_pb2


def test_messages_and_dicts_are_the_same_request(do):
    client = do.client()
    message = recommendation_pb2.RecommendRequest(model={"name": "small"})
    assert do(client.recommend(message)) == do(client.recommend({"model": {"name": "small"}}))


def test_words_are_the_same_request_as_a_message(do):
    client = do.client()
    message = recommendation_pb2.RecommendRequest(model={"name": "small"}, hardware={"accelerator": "rtx-4090"})
    message.quality = recommendation_pb2.QUALITY_NEED_MAXIMUM
    message.max_duration.seconds, message.budget_per_run.units = 8 * 3600, 50
    message.budget_per_run.currency_code = "USD"
    said = do(client.recommend(model="small", gpu="rtx-4090", quality="maximum", max_duration="8h", budget_per_run=50))
    assert said == do(client.recommend(message))
    with pytest.raises(finetree.InvalidArgument, match="quality: expected one of maximum, critical"):
        do(client.recommend(quality="best"))


def test_methods_by_name_and_number(do):
    client = do.client()
    cards = do(client.list_methods())
    assert len(cards) == 5
    assert do(client.get_method("qlora")).method == method_pb2.METHOD_QLORA
    assert do(client.get_method(method_pb2.METHOD_FULL)).method == method_pb2.METHOD_FULL
    with pytest.raises(finetree.InvalidArgument, match="known are full, lora, qlora, prefix, adapter"):
        do(client.get_method("magic"))


def test_what_a_pack_says_beside_its_cards(do):
    guide = do(do.client().method_guide())
    (question,) = guide.questions
    assert [option.value for option in question.options] == ["DAYS", "HOURS"]
    merged = recommendation_pb2.RecommendRequest(model={"name": "small"})
    merged.MergeFrom(question.options[1].request)
    assert merged.time == recommendation_pb2.TIME_NEED_HOURS
    assert guide.hardware[0].method == method_pb2.METHOD_LORA


def test_a_tree_is_drawn_with_and_without_a_request(do):
    client = do.client()
    plain = do(client.render_decision_tree())
    assert (plain.content, list(plain.taken_ids)) == ("How fake-1 decides\n-> LoRA\n", [])
    marked = do(client.render_decision_tree({"model": {"name": "small"}}, picture_format="svg"))
    assert marked.media_type == "image/svg+xml"
    assert marked.taken_ids == ["fake"]
    assert do(client.render_frontier({"model": {"name": "small"}})).content == marked.content
    with pytest.raises(finetree.InvalidArgument, match="known are text, mermaid, svg"):
        do(client.render_decision_tree(picture_format="png"))


def test_rule_packs_are_listed_and_shown_in_full(do):
    client = do.client()
    (pack,) = do.all(client.list_rule_packs(page_size=1))
    assert do(client.get_rule_pack()).rule_pack == pack
    assert [question.field_path for question in do(client.get_rule_pack(pack.id)).questions] == ["quality"]
    with pytest.raises(finetree.NotFound) as refused:
        do(client.get_rule_pack("no-such-pack"))
    assert refused.value.reason == "RULE_PACK_NOT_FOUND"


def test_servers_are_named_with_their_versions_or_all_of_them(do):
    client = do.client()
    lora = {"model": {"name": "small"}, "lora": {"rank": 8}}
    asked = do(client.check_serving(lora, servers={"llama.cpp": "", "vllm": "0.33.0"}))
    assert [(check.server, check.versions) for check in asked.checks] == [(3, ""), (1, "0.33.0")]
    assert len(do(client.check_serving(lora)).checks) == 7
    prefix = do(client.check_serving({"model": {"name": "small"}, "prefix": {}}, servers=["tgi"]))
    assert prefix.checks[0].verdict == serving_pb2.SERVING_VERDICT_NOT
    whole = recommender_serving_pb2.CheckServingRequest(result={"form": recommender_serving_pb2.SERVED_FORM_MODEL})
    assert do(client.check_serving(whole)) == do(client.check_serving(whole.result))
    with pytest.raises(finetree.InvalidArgument, match="must have a method"):
        do(client.check_serving({"model": {"name": "small"}}))
