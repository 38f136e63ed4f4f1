# SPDX-License-Identifier: Apache-2.0
"""The decision tree and the frontier as pictures: what is drawn, what is marked, and that nothing lies on another."""

import dataclasses
import itertools
import random
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from finetree_api.recommender.v1 import picture_pb2, recommendation_pb2
from finetree_recommender.decision.stages import choose
from finetree_recommender.estimator.values import Catalogue, Evidence
from finetree_recommender.explain import cautions
from finetree_recommender.method import Method
from finetree_recommender.pictures import svg
from finetree_recommender.pictures.axis import axis
from finetree_recommender.pictures.frontier import frontier_svg
from finetree_recommender.pictures.graph import Kind, build
from finetree_recommender.pictures.path import Path, passed
from finetree_recommender.pictures.svg import Rectangle
from finetree_recommender.pictures.tree import render
from finetree_recommender.pictures.tree_svg import lay_out
from finetree_recommender.recommend import conclude
from finetree_recommender.request.inputs import Inputs, normalize
from finetree_recommender.rule_pack.pack import Pack, builtin_packs
from finetree_recommender.rule_pack.schema.rules import Node, Tree
from finetree_runtime.money import to_money
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
HARDWARE = [
    None,
    {"cpu": {"cores": 2}},
    *({"unknown_accelerator": {"marketed_memory_gb": gb}} for gb in (6, 8, 16, 24, 80)),
]
FORMATS = [picture_pb2.PICTURE_FORMAT_TEXT, picture_pb2.PICTURE_FORMAT_MERMAID, picture_pb2.PICTURE_FORMAT_SVG]
PACKS = builtin_packs()


def asked(pack: Pack, **fields: Any) -> Inputs:
    """A request as a pack reads it."""
    request = json_format.ParseDict({"model": {"name": "m"}, **fields}, recommendation_pb2.RecommendRequest())
    return normalize(request, pack, Catalogue())


def requests():
    """Answers that between them take every path of the playbook."""
    for hardware, quality, time, tasks in itertools.product(HARDWARE, (None, 1, 5), (None, 2, 3), (None, 1, 3)):
        given = {"hardware": hardware, "quality": quality, "time": time, "tasks": tasks}
        yield {name: value for name, value in given.items() if value is not None}
    for use_case, budget, time in itertools.product((1, 2, 3), (None, 10, 5000), (None, 2, 3)):
        given = {"use_case": use_case, "budget_per_month": usd(budget) if budget else None, "time": time}
        yield {name: value for name, value in given.items() if value is not None}
    for hardware, experience, serving in itertools.product(HARDWARE, (None, 1), (None, 1)):
        given = {"hardware": hardware, "experience": experience, "serving": [serving] if serving else None, "time": 2}
        yield {name: value for name, value in {**given, "priorities": [5]}.items() if value is not None}


def path_of(pack, graph, fields, states=None) -> list[str]:
    """Boxes that a request passes; every rule of its trace must be in the picture."""
    answers = asked(pack, **fields).answers
    choice = choose(pack, answers, states)
    shown = {*graph.boxes, *(line.rule_id for box in graph.boxes.values() for line in box.lines)}
    assert {step.rule_id for step in choice.steps} <= shown
    ids = passed(graph, pack, answers, choice)
    return [box_id for box_id in ids if box_id in graph.boxes and graph.boxes[box_id].kind is not Kind.VOTE]


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_every_way_is_marked_with_the_rules_of_its_trace(pack):
    graph = build(pack)
    paths = [path_of(pack, graph, fields) for fields in requests()]
    assert {(path[0], path[-1]) for path in paths} == {("gate", "fit")}
    ends = {box_id for path in paths for box_id in path if graph.boxes[box_id].kind is Kind.OUTCOME}
    if pack.rules.id == "playbook-1":
        # 8 GB leave one method to vote for, so that the vote decides before the tree's last leaf.
        assert {box.id for box in graph.of_kind(Kind.OUTCOME)} - ends == {"N4.no"}


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_a_way_by_estimates_is_marked_too(pack, evidence):
    graph = build(pack)
    fits = ({"lora": "FITS", "qlora": "FITS"}, {"full": "FITS", "lora": "FITS"}, {"prefix": "TIGHT"}, {})
    for words, fields in itertools.product(fits, requests()):
        assert path_of(pack, graph, fields, evidence(**words).states)[0] == "gate"


def test_a_wish_that_passed_a_method_over_is_marked(pack, evidence):
    small = {"unknown_accelerator": {"marketed_memory_gb": 8}}
    answer = conclude(pack, asked(pack, hardware=small, serving=[1]), evidence(prefix="FITS", qlora="FITS"))
    assert "limits" in {step.stage for step in answer.trace}
    drawn = render(pack, answer, picture_pb2.PICTURE_FORMAT_TEXT)
    marked = {line.rule_id for node in drawn.nodes if node.id == "limits" for line in node.lines if line.taken}
    assert marked == {"serving.vllm.prefix"}


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_nodes_and_edges_hang_together(pack):
    reply = render(pack, None, picture_pb2.PICTURE_FORMAT_TEXT)
    ids = [node.id for node in reply.nodes]
    assert len(set(ids)) == len(ids)
    assert all({edge.from_node, edge.to_node} <= set(ids) for edge in reply.edges)
    reached = {edge.to_node for edge in reply.edges}
    votes = {node.id for node in reply.nodes if node.kind == picture_pb2.TREE_NODE_KIND_VOTE}
    assert set(ids) - reached - votes == {"gate"}
    assert not reply.taken_ids
    assert not any(node.taken for node in reply.nodes)
    assert reply.revision.pack.sha256 == pack.sha256


def test_a_marked_picture_says_where_the_way_ends(pack, read):
    answer = conclude(pack, read(hardware=GPU24), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    drawn = {number: render(pack, answer, number).content for number in FORMATS}
    assert "=> |    . 24 to 80 GB: LoRA" in drawn[picture_pb2.PICTURE_FORMAT_TEXT]
    assert "=> verdict: LoRA" in drawn[picture_pb2.PICTURE_FORMAT_TEXT]
    assert "classDef taken" in drawn[picture_pb2.PICTURE_FORMAT_MERMAID]
    assert 'class="decision taken"' in drawn[picture_pb2.PICTURE_FORMAT_SVG]
    assert "taken" not in render(pack, None, picture_pb2.PICTURE_FORMAT_SVG).content


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_text_keeps_to_its_columns(pack):
    lines = render(pack, None, picture_pb2.PICTURE_FORMAT_UNSPECIFIED).content.splitlines()
    assert max(map(len, lines)) <= 100
    for node in pack.rules.tree.nodes:
        assert sum(f"[{node.id}]" in line for line in lines) == 1


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


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_mermaid_is_made_of_known_statements_only(pack):
    answer = conclude(pack, asked(pack, hardware=GPU24, quality=1), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    for line in render(pack, answer, picture_pb2.PICTURE_FORMAT_MERMAID).content.splitlines():
        assert any(re.fullmatch(statement, line) for statement in STATEMENTS), line


@pytest.fixture
def hostile(pack):
    """A pack whose words try to break out of every picture."""
    words = 'a"] --> x <script>alert(1)</script> & `]]>\x00'
    cards = tuple(dataclasses.replace(card, title=words) for card in pack.rules.methods)
    return dataclasses.replace(pack, rules=dataclasses.replace(pack.rules, methods=cards, id=words))


def assert_harmless(content):
    root = ET.fromstring(content)
    names = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in root.iter()}
    assert names <= {"svg", "title", "desc", "rect", "path", "polygon", "text", "line", "circle"}
    assert [child.tag.rpartition("}")[2] for child in root][:2] == ["title", "desc"]
    for element in root.iter():
        assert not {name for name in element.attrib if name == "style" or name.startswith("on") or "href" in name}
        assert element.tag.endswith(("title", "desc")) or element.get("class")


def test_words_of_a_pack_cannot_break_out_of_a_picture(hostile, read):
    answer = conclude(hostile, read(hardware=GPU24), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    assert_harmless(render(hostile, answer, picture_pb2.PICTURE_FORMAT_SVG).content)
    assert_harmless(frontier_svg(answer))
    for line in render(hostile, answer, picture_pb2.PICTURE_FORMAT_MERMAID).content.splitlines():
        assert any(re.fullmatch(statement, line) for statement in STATEMENTS), line


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
def test_no_box_lies_on_another_whatever_the_tree(pack, nodes):
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


@pytest.mark.parametrize("picture_format", FORMATS)
def test_the_same_question_draws_the_same_bytes(pack, read, picture_format):
    def drawn() -> bytes:
        answer = conclude(pack, read(hardware=GPU24, time=3), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
        return render(builtin_packs()["playbook-1"], answer, picture_format).SerializeToString(deterministic=True)

    assert drawn() == drawn()


def compared(pack, read, evidence: Evidence | None, **fields: Any):
    missing = "" if evidence is not None else cautions.ESTIMATOR_UNAVAILABLE
    return conclude(pack, read(hardware=GPU24, **fields), evidence, missing=missing)


def test_the_frontier_tells_how_each_method_stands(pack, read, evidence):
    content = frontier_svg(compared(pack, read, evidence(lora="FITS", qlora="FITS"), dataset_profile={"examples": 500}))
    assert_harmless(content)
    description = re.search("<desc>(.*)</desc>", content)[1]
    assert "LoRA: on the frontier" in description
    assert "Full fine-tuning: does not fit" in description
    for words in ("Quality, % of full fine-tuning", "Device memory, GiB", "Time, seconds", "Cost, USD"):
        assert words in content


def test_the_frontier_without_rows_says_what_is_missing(pack, read):
    content = frontier_svg(compared(pack, read, None))
    assert "unknown: how many rows are" in content
    assert "of playbook-1, for a 7B model" in content


@pytest.mark.parametrize("examples", [0, 100, 1000, 100_000])
def test_no_words_of_a_frontier_lie_on_others(pack, read, evidence, examples):
    profile = {"dataset_profile": {"examples": examples}} if examples else {}
    for found in (None, evidence(lora="FITS", qlora="TIGHT"), evidence(full="FITS", adapter="FITS", prefix="FITS")):
        root = ET.fromstring(frontier_svg(compared(pack, read, found, **profile)))
        places = [place(element) for element in root.iter("{http://www.w3.org/2000/svg}text")]
        for one, other in itertools.combinations(places, 2):
            assert not one.overlaps(other), (one, other)
        assert max(item.right for item in places) <= float(root.get("width"))


def place(element):
    wide, high = svg.length(element.text, element.get("class")), float(element.get("font-size"))
    x, y = float(element.get("x")), float(element.get("y"))
    shift = {"start": 0.0, "middle": wide / 2, "end": wide}[element.get("text-anchor")]
    return Rectangle(x - shift, y - high * 0.75, wide, high)


@pytest.mark.parametrize(
    ("values", "from_zero", "ticks", "logarithmic"),
    [
        ([3.0, 19.0], True, [0, 10, 20], False),
        ([0.1, 90.0], True, [0.1, 0.5, 2, 10, 50], True),
        ([80.0, 100.0], False, [80, 90, 100], False),
        ([5.0, 5.0], False, [4, 4.5, 5, 5.5, 6], False),
        ([0.0, 0.0], True, [0, 0.5, 1], False),
    ],
)
def test_an_axis_holds_its_values_and_has_round_ticks(values, from_zero, ticks, logarithmic):
    scale = axis(values, 0, 100, from_zero=from_zero)
    assert scale.ticks() == pytest.approx(ticks)
    assert scale.logarithmic is logarithmic
    assert all(0 <= scale.at(value) <= 100 for value in values)
    assert scale.at(values[0]) <= scale.at(values[-1])
