# SPDX-License-Identifier: Apache-2.0
import signal

import finetree
import pytest
from finetree_api.recommender.v1 import recommender_pb2 as rec

METHODS = {"FULL", "LORA", "QLORA", "PREFIX", "ADAPTER"}


def name(card):
    return rec.Method.Name(card.method).removeprefix("METHOD_")


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
    assert {name(card) for card in cards if card.trainable_here} == {"FULL", "LORA"}


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
async def test_one_card_is_the_same_as_in_the_list(client, method):
    card = await client.get_method(method)
    assert card in await client.list_methods()
    assert name(card) == method.upper()


async def test_cards_need_no_estimator(recommender, free_address):
    async with recommender(free_address) as client:
        assert len(await client.list_methods(policy="playbook-1")) == 5


async def test_errors_of_the_cards(client):
    with pytest.raises(finetree.NotFound) as missing:
        await client.list_methods(policy="no-such-pack")
    assert missing.value.reason == "POLICY_NOT_FOUND"
    assert "playbook-1" in str(missing.value)
    with pytest.raises(finetree.NotFound):
        await client.get_method("lora", policy="no-such-pack")
    with pytest.raises(finetree.InvalidArgument):
        await client.get_method(0)


async def test_the_server_says_what_it_is(client):
    info = await client.server_info("recommender")
    assert info.service == "finetree-recommender"
    assert list(info.api_revisions) == ["v1"]
    assert info.version


def test_the_program_starts_and_stops(program, tmp_path, free_address):
    with program("finetree_recommender", tmp_path, "--estimator-address", free_address) as (process, address):
        with finetree.Client(recommender_address=address) as client:
            assert len(client.list_methods()) == 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
