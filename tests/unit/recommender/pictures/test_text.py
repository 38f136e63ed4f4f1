# SPDX-License-Identifier: Apache-2.0
"""Decision graph as text."""

import pytest
from finetree_api.recommender.v1 import picture_pb2
from finetree_recommender.pictures.tree import render
from finetree_recommender.rule_pack.pack import builtin_packs

PACKS = builtin_packs()


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_no_line_is_longer_than_100_characters_and_every_node_is_written_once(pack):
    lines = render(pack, None, picture_pb2.PICTURE_FORMAT_UNSPECIFIED).content.splitlines()
    assert max(map(len, lines)) <= 100
    for node in pack.rules.tree.nodes:
        assert sum(f"[{node.id}]" in line for line in lines) == 1
