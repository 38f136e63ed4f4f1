# SPDX-License-Identifier: Apache-2.0
"""Drawings over the wire: formats, marks, and each documented error."""

from typing import Any
from xml.etree import ElementTree as ET

import finetree
import pytest
from finetree_runtime.money import to_money
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


REQUEST = {
    "model": {"name": "llama-3.1-8b"},
    "hardware": {"accelerator": "rtx-4090"},
    "dataset_profile": {"examples": 5000, "total_tokens": 1_500_000},
}


@pytest.mark.parametrize(
    ("picture_format", "media_type", "begins"),
    [
        ("text", "text/plain; charset=utf-8", "How {pack} decides"),
        ("mermaid", "text/vnd.mermaid; charset=utf-8", "flowchart TD"),
        ("svg", "image/svg+xml", "<svg"),
        (0, "text/plain; charset=utf-8", "How {pack} decides"),
    ],
)
async def test_a_tree_comes_in_every_format(client, picture_format, media_type, begins):
    drawn = await client.render_decision_tree(picture_format=picture_format)
    assert drawn.media_type == media_type
    assert drawn.content.startswith(begins.format(pack=drawn.revision.pack.id))
    assert not drawn.taken_ids


@pytest.mark.service_alone("drawing")
async def test_the_path_is_that_of_the_answers_trace(client):
    answer = await client.recommend(REQUEST)
    drawn = await client.render_decision_tree(REQUEST)
    shown = {line.rule_id for node in drawn.nodes for line in node.lines if line.taken} | set(drawn.taken_ids)
    assert {step.rule_id for step in answer.trace if step.stage != "fit"} <= shown
    assert drawn.revision == answer.revision
    assert drawn.taken_ids[0] == "gate"


@pytest.mark.service_alone("rule packs")
async def test_the_rule_pack_of_a_drawing_takes_precedence_over_that_of_its_request(client):
    drawn = await client.render_decision_tree(REQUEST, rule_pack="evidence-1")
    assert drawn.revision.pack.id == "evidence-1"
    assert "How evidence-1 decides" in drawn.content
    assert "gate.physics" in {line.rule_id for node in drawn.nodes for line in node.lines if line.taken}


@pytest.mark.service_alone("drawing")
async def test_a_frontier_is_drawn_of_estimates(client):
    drawn = await client.render_frontier(REQUEST)
    assert drawn.media_type == "image/svg+xml"
    title = ET.fromstring(drawn.content).find("{http://www.w3.org/2000/svg}title")
    assert title.text == "Quality, memory, time and cost of the five methods"
    assert "are the estimator's" in drawn.content
    assert drawn.revision.engine.id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rule_pack": "no-such-pack"}, "RULE_PACK_NOT_FOUND"),
        ({"model": {"name": "no-such-model"}}, "MODEL_NOT_FOUND"),
        ({"hardware": {"accelerator": "no-such-gpu"}}, "ACCELERATOR_NOT_FOUND"),
        ({"budget_per_month": usd(-1)}, "INVALID_REQUEST"),
        ({"pinned": {"pack": {"id": "older"}}}, "REVISION_UNAVAILABLE"),
    ],
)
async def test_what_a_recommendation_refuses_is_not_drawn(client, change, reason):
    with pytest.raises(finetree.FinetreeError) as tree:
        await client.render_decision_tree({**REQUEST, **change})
    with pytest.raises(finetree.FinetreeError) as frontier:
        await client.render_frontier({**REQUEST, **change})
    assert (tree.value.reason, frontier.value.reason) == (reason, reason)


async def test_an_unknown_pack_is_not_drawn_without_a_request_either(client):
    with pytest.raises(finetree.NotFound) as refused:
        await client.render_decision_tree(rule_pack="no-such-pack")
    assert refused.value.reason == "RULE_PACK_NOT_FOUND"


async def test_an_unknown_format_is_refused(client):
    with pytest.raises(finetree.InvalidArgument) as refused:
        await client.render_decision_tree(picture_format=99)
    assert refused.value.violations[0].field == "format"
