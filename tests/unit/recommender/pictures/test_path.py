# SPDX-License-Identifier: Apache-2.0
"""Paths of requests through the graph of a pack."""

import itertools
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_recommender.decision.stages import choose
from finetree_recommender.estimator.values import Catalog
from finetree_recommender.pictures.graph import Kind, build
from finetree_recommender.pictures.path import passed
from finetree_recommender.request.inputs import Inputs, normalize
from finetree_recommender.rule_pack.pack import Pack, builtin_packs
from google.protobuf import json_format

HARDWARE = [
    None,
    {"cpu": {"cores": 2}},
    *({"unknown_accelerator": {"marketed_memory_gb": gb}} for gb in (6, 8, 16, 24, 80)),
]
PACKS = builtin_packs()


def asked(pack: Pack, **fields: Any) -> Inputs:
    """A request as a pack reads it."""
    request = json_format.ParseDict({"model": {"name": "m"}, **fields}, recommendation_pb2.RecommendRequest())
    return normalize(request, pack, Catalog())


def requests():
    """Requests that together take every path of the playbook."""
    for hardware, quality, time, tasks in itertools.product(HARDWARE, (None, 1, 5), (None, 2, 3), (None, 1, 3)):
        given = {"hardware": hardware, "quality": quality, "time": time, "tasks": tasks}
        yield {name: value for name, value in given.items() if value is not None}
    for use_case, budget, time in itertools.product((1, 2, 3), (None, 10, 5000), (None, 2, 3)):
        given = {
            "use_case": use_case,
            "budget_per_month": {"currency_code": "USD", "units": budget} if budget else None,
            "time": time,
        }
        yield {name: value for name, value in given.items() if value is not None}
    for hardware, experience, serving in itertools.product(HARDWARE, (None, 1), (None, 1)):
        given = {"hardware": hardware, "experience": experience, "serving": [serving] if serving else None, "time": 2}
        yield {name: value for name, value in {**given, "priorities": [5]}.items() if value is not None}


def path_of(pack, graph, fields, states=None) -> list[str]:
    """Boxes that a request passes; asserts that the graph has every rule of its trace."""
    answers = asked(pack, **fields).answers
    choice = choose(pack, answers, states)
    shown = {*graph.boxes, *(line.rule_id for box in graph.boxes.values() for line in box.lines)}
    assert {step.rule_id for step in choice.steps} <= shown
    ids = passed(graph, pack, answers, choice=choice)
    return [box_id for box_id in ids if box_id in graph.boxes and graph.boxes[box_id].kind is not Kind.VOTE]


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_every_path_is_marked_with_the_rules_of_its_trace(pack):
    graph = build(pack)
    paths = [path_of(pack, graph, fields) for fields in requests()]
    assert {(path[0], path[-1]) for path in paths} == {("gate", "fit")}
    ends = {box_id for path in paths for box_id in path if graph.boxes[box_id].kind is Kind.OUTCOME}
    if pack.rules.id == "playbook-1":
        # 8 GB leave one method to vote for, so that the vote decides before the tree's last leaf.
        assert {box.id for box in graph.of_kind(Kind.OUTCOME)} - ends == {"N4.no"}


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_a_path_by_estimates_begins_at_the_gate(pack, evidence):
    graph = build(pack)
    fits = ({"lora": "FITS", "qlora": "FITS"}, {"full": "FITS", "lora": "FITS"}, {"prefix": "TIGHT"}, {})
    for words, fields in itertools.product(fits, requests()):
        assert path_of(pack, graph, fields, evidence(**words).states)[0] == "gate"
