# SPDX-License-Identifier: Apache-2.0
"""Figures of the pack where there is no estimate."""

from itertools import pairwise

import pytest
from finetree_recommender.decision.prior_figures import pack_cost, pack_seconds
from finetree_recommender.method import Method


def test_playbook_times_are_its_table_and_grow_with_the_data(pack):
    assert pack_seconds(pack, Method.LORA, 1000).expected == pytest.approx(2 * 3600)
    assert pack_seconds(pack, Method.FULL, 100000).expected == pytest.approx(720 * 3600)
    assert pack_cost(pack, Method.QLORA, 10000).amount.expected == pytest.approx(9.6)
    assert pack_seconds(pack, Method.LORA, 99) is None
    assert pack_seconds(pack, Method.LORA, None) is None
    for method in Method:
        times = [pack_seconds(pack, method, examples).expected for examples in (100, 300, 1000, 5000, 10000, 99999)]
        assert all(less < more for less, more in pairwise(times))
