# SPDX-License-Identifier: Apache-2.0
import signal

import finetree
import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import evidence_pb2, method_pb2

METHODS = {"FULL", "LORA", "QLORA", "PREFIX", "ADAPTER"}


def name(card):
    return method_pb2.Method.Name(card.method).removeprefix("METHOD_")


@pytest.mark.service_alone("rule packs")
async def test_the_five_cards_are_complete(client):
    cards = await client.list_methods()
    assert {name(card) for card in cards} == METHODS
    for card in cards:
        assert card.title
        assert card.description
        assert card.when_to_use
        assert card.when_not_to_use
        assert card.badges
        assert card.parameters
        assert 0 <= card.stars <= 3
        assert card.minimum_gpu_gb >= 8
        assert card.quality_percent.low <= card.quality_percent.expected <= card.quality_percent.high
        assert card.quality_percent.provenance
    assert all(card.trainable_here for card in cards)


@pytest.mark.service_alone("rule packs")
async def test_a_card_holds_what_a_dashboard_shows(client):
    for card in await client.list_methods():
        assert all((card.tooltip, card.best_for, card.efficiency, card.efficiency_label))
        assert [badge.label for badge in card.badge_details] == list(card.badges)
        assert all(badge.tooltip for badge in card.badge_details)
        assert card.warning is (card.stars == 0)
        names = [figure.name for figure in card.figures]
        assert names == ["memory_percent", "speed_factor", "trainable_percent", "cost_level", *names[4:]]
        assert all(figure.label and figure.text and figure.provenance.locator for figure in card.figures)
        assert [row.examples for row in card.reference_cost.rows] == [100, 1000, 10000, 100000]
        assert all(row.cost.amount.provenance for row in card.reference_cost.rows)
        assert card.reference_cost.accelerator
        assert card.advice
        assert all(item.text and item.rule_id and item.provenance.locator for item in card.advice)
        assert card.evidence
        assert all(row.provenance.kind == evidence_pb2.PROVENANCE_KIND_PUBLISHED for row in card.evidence)


@pytest.mark.service_alone("rule packs")
async def test_the_guides_of_rank_and_quantization_name_one_usual_choice(client):
    parameters = {item.field_path: item for item in (await client.get_method("qlora")).parameters}
    assert [choice.value for choice in parameters["qlora.lora.rank"].choices] == ["64", "32", "16", "8", "4"]
    bits = {choice.value: choice for choice in parameters["qlora.quantization"].choices}
    assert [value for value, choice in bits.items() if choice.recommended] == ["QUANTIZATION_NF4"]
    assert (bits["QUANTIZATION_INT8"].quality_percent.low, bits["QUANTIZATION_INT8"].minimum_gpu_gb) == (90, 24)


@pytest.mark.service_alone("rule packs")
async def test_the_hardware_chart_says_where_nothing_is_recommended(client):
    rows = (await client.method_guide()).hardware
    assert [row.marketed_memory_gb for row in rows] == [80, 40, 24, 16, 8, 4]
    assert rows[0].cost_open_ended
    assert rows[-1].method == method_pb2.METHOD_UNSPECIFIED
    assert not rows[-1].HasField("total_seconds")
    assert rows[-1].note


@pytest.mark.service_alone("rule packs")
async def test_every_answer_of_the_questionnaire_is_understood_as_itself(client):
    guide = await client.method_guide()
    assert [len(question.options) for question in guide.questions] == [6, 5, 5, 3, 3]
    for question in guide.questions:
        for option in question.options:
            request = recommendation_pb2.RecommendRequest(model={"name": "llama-3.1-8b"})
            request.MergeFrom(option.request)
            trace = (await client.recommend(request)).trace
            assert option.id in [step.rule_id for step in trace], option.id


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
async def test_one_card_is_the_same_as_in_the_list(client, method):
    card = await client.get_method(method)
    assert card in await client.list_methods()
    assert name(card) == method.upper()


@pytest.mark.service_alone("process")
async def test_cards_need_no_estimator(recommender, free_address):
    async with recommender(free_address) as client:
        assert len(await client.list_methods(rule_pack="playbook-1")) == 5


async def test_errors_of_the_cards(client):
    with pytest.raises(finetree.NotFound) as missing:
        await client.list_methods(rule_pack="no-such-pack")
    assert missing.value.reason == "RULE_PACK_NOT_FOUND"
    (default,) = [pack.id async for pack in client.list_rule_packs() if pack.default]
    assert default in str(missing.value)
    with pytest.raises(finetree.NotFound):
        await client.get_method("lora", rule_pack="no-such-pack")
    with pytest.raises(finetree.InvalidArgument):
        await client.get_method(0)


async def test_the_server_says_what_it_is(client):
    info = await client.server_info("recommender")
    assert info.service == "finetree-recommender"
    assert list(info.api_revisions) == ["v1"]
    assert info.version


@pytest.mark.service_alone("process")
def test_the_program_starts_and_stops(program, tmp_path, free_address):
    with program("finetree_recommender", tmp_path, "--estimator-address", free_address) as (process, address):
        with finetree.Client(recommender_address=address) as client:
            assert len(client.list_methods()) == 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
