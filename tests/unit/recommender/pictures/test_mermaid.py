# SPDX-License-Identifier: Apache-2.0
"""Decision graph as a Mermaid flow chart."""

import re

import pytest
from finetree_api.recommender.v1 import picture_pb2
from finetree_recommender.explain import cautions
from finetree_recommender.pictures.tree import render
from finetree_recommender.recommend import conclude
from finetree_recommender.rule_pack.pack import builtin_packs

GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
PACKS = builtin_packs()
BOX = r'n\d+(\{\{"[^"]*"\}\}|\(\["[^"]*"\]\)|\["[^"]*"\])'
STATEMENTS = (
    r"flowchart TD",
    r"  accTitle: [\w .-]+",
    rf"  (  )?{BOX}",
    r'  subgraph votes\["[^"]*"\]',
    r"  end",
    r'  n\d+ (==>|-->)\|"[^"]*"\| n\d+',
    r"  classDef taken stroke-width:4px,font-weight:bold",
    r"  class n\d+(,n\d+)* taken",
)


def statements(pack, answer) -> list[str]:
    return render(pack, answer, picture_pb2.PICTURE_FORMAT_MERMAID).content.splitlines()


@pytest.mark.parametrize("drawn", PACKS.values(), ids=PACKS.keys())
def test_a_flow_chart_has_known_statements_only(drawn, read):
    inputs = read(hardware=GPU24, quality=1).reread(drawn)
    answer = conclude(drawn, inputs, None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    for line in statements(drawn, answer):
        assert any(re.fullmatch(statement, line) for statement in STATEMENTS), line


def test_texts_of_a_pack_are_escaped(hostile, read):
    answer = conclude(hostile, read(hardware=GPU24), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    for line in statements(hostile, answer):
        assert any(re.fullmatch(statement, line) for statement in STATEMENTS), line
