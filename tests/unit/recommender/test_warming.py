# SPDX-License-Identifier: Apache-2.0
"""What is found ahead is what recommendations ask for, and ends with the service."""

import random

import pytest
from finetree_recommender.fan import abroad, fan
from finetree_recommender.gist import gist
from finetree_recommender.policy.answers import NAMES, UNKNOWN, Answers, vocabulary
from finetree_recommender.policy.pack import load_builtin, parse
from finetree_recommender.warming import AT_ONCE, Warming, find, gists


@pytest.fixture
def fresh(pack):
    """The pack, loaded again: nothing is kept for it."""
    return parse(pack.text.encode())


def test_every_answer_with_a_memory_has_one_of_the_gists(pack):
    found, words, draw = set(gists(pack)), vocabulary(pack.rules), random.Random(1)
    for _ in range(2000):
        given = {name: draw.choice((UNKNOWN, *words[name])) for name in NAMES}
        answers = Answers(**given | {"memory": draw.choice(words["memory"])})
        assert gist(pack, answers) in found
    assert len(found) == len(list(gists(pack)))


def test_what_was_found_ahead_is_not_found_again(fresh):
    steps = sum(1 for _ in find(fresh))
    assert steps == -(-len(list(gists(fresh))) // AT_ONCE)
    before = fan.cache_info().misses, abroad.cache_info().misses
    for each in gists(fresh):
        fan(fresh, each, None)
        abroad(fresh, each)
    assert (fan.cache_info().misses, abroad.cache_info().misses) == before


def test_nothing_is_found_ahead_for_a_pack_that_asks_what_fits():
    assert list(find(load_builtin()["evidence-1"])) == []


async def test_it_ends_with_the_service_wherever_it_is(fresh):
    await Warming(fresh).stop()
    begun = Warming(fresh)
    await begun.start()
    before = fan.cache_info().misses
    await begun.stop()
    await begun.stop()
    assert fan.cache_info().misses == before
