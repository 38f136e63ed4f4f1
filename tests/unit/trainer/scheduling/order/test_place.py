# SPDX-License-Identifier: Apache-2.0
from finetree_runtime.ids import uuid7
from finetree_trainer.scheduling.order import place
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.integers(0, 100), max_size=60))
def test_between_any_two_places_there_is_another_one(moves):
    places = sorted(uuid7().hex for _ in range(3))
    for index in moves:
        at = index % len(places)
        found = place.between(places[at - 1] if at else "", places[at])
        assert (places[at - 1] if at else "") < found < places[at]
        places.insert(at, found)
    assert places == sorted(places)
    assert all(found < place.last() < place.UNDECIDED for found in places)


def test_a_gap_that_is_used_again_and_again_costs_a_digit_for_every_four_moves():
    low, high = uuid7().hex, uuid7().hex
    for _ in range(400):
        high = place.between(low, high)
    assert low < high
    assert len(high) <= 32 + 101
