# SPDX-License-Identifier: Apache-2.0
"""Decision graph as SVG: layout and escaping."""

import dataclasses
import itertools
import random

import pytest
from finetree_recommender.method import Method
from finetree_recommender.pictures import svg
from finetree_recommender.pictures.graph import build
from finetree_recommender.pictures.path import Path
from finetree_recommender.pictures.tree_svg import lay_out, tree_svg
from finetree_recommender.rule_pack.schema.rules import Node, Tree


def grown(pack, nodes, seed):
    """The pack with a random tree of that many nodes."""
    pick = random.Random(seed)
    free = [("N0", "yes"), ("N0", "no")]
    ends = {place: pick.choice(list(Method)).value for place in free}
    for number in range(1, nodes):
        place = pick.choice(free)
        free.remove(place)
        ends[place] = f"N{number}"
        for word in ("yes", "no"):
            free.append((f"N{number}", word))
            ends[f"N{number}", word] = pick.choice(list(Method)).value
    memory = [item.key for item in pack.rules.gate.classes]
    made = tuple(
        Node(
            f"N{n}",
            {"memory": tuple(pick.sample(memory, pick.randint(1, 3)))},
            ends[f"N{n}", "yes"],
            ends[f"N{n}", "no"],
            "playbook L1",
        )
        for n in range(nodes)
    )
    return dataclasses.replace(pack, rules=dataclasses.replace(pack.rules, tree=Tree("N0", made)))


@pytest.mark.parametrize("nodes", [1, 3, 4, 8, 13, 20])
def test_no_boxes_overlap_whatever_the_tree(pack, nodes):
    for seed in range(5):
        graph = build(grown(pack, nodes, seed))
        layout = lay_out(graph, Path())
        assert set(layout.places) == set(graph.boxes)
        for one, other in itertools.combinations(layout.places.values(), 2):
            assert not one.overlaps(other)
        for box_id, place in layout.places.items():
            widest = max(svg.length(line, kind) for line, kind in layout.texts[box_id])
            assert widest <= place.width - 10, box_id
            assert place.bottom < layout.bottom


def test_texts_of_a_pack_are_escaped(hostile, assert_plain):
    assert_plain(tree_svg(build(hostile), Path(verdict=hostile.rules.id)))
