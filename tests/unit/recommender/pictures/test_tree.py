# SPDX-License-Identifier: Apache-2.0
"""Reply of RenderDecisionTree: nodes, edges, marks and formats."""

import pytest
from finetree_api.recommender.v1 import picture_pb2
from finetree_recommender.explain import cautions
from finetree_recommender.pictures.tree import render
from finetree_recommender.recommend import conclude
from finetree_recommender.rule_pack.pack import builtin_packs

GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
FORMATS = [picture_pb2.PICTURE_FORMAT_TEXT, picture_pb2.PICTURE_FORMAT_MERMAID, picture_pb2.PICTURE_FORMAT_SVG]
PACKS = builtin_packs()


def test_a_limit_that_skips_a_method_is_marked(pack, read, evidence):
    small = {"unknown_accelerator": {"marketed_memory_gb": 8}}
    answer = conclude(pack, read(hardware=small, serving=[1]), evidence(prefix="FITS", qlora="FITS"))
    assert "limits" in {step.stage for step in answer.trace}
    drawn = render(pack, answer, picture_pb2.PICTURE_FORMAT_TEXT)
    marked = {line.rule_id for node in drawn.nodes if node.id == "limits" for line in node.lines if line.taken}
    assert marked == {"serving.vllm.prefix"}


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS.keys())
def test_every_edge_joins_nodes_and_every_node_is_reached(pack):
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


def test_the_path_of_an_answer_is_marked_in_every_format(pack, read):
    answer = conclude(pack, read(hardware=GPU24), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    drawn = {number: render(pack, answer, number).content for number in FORMATS}
    assert "=> |    . 24 to 80 GB: LoRA" in drawn[picture_pb2.PICTURE_FORMAT_TEXT]
    assert "=> verdict: LoRA" in drawn[picture_pb2.PICTURE_FORMAT_TEXT]
    assert "classDef taken" in drawn[picture_pb2.PICTURE_FORMAT_MERMAID]
    assert 'class="decision taken"' in drawn[picture_pb2.PICTURE_FORMAT_SVG]
    assert "taken" not in render(pack, None, picture_pb2.PICTURE_FORMAT_SVG).content


@pytest.mark.parametrize("picture_format", FORMATS)
def test_equal_requests_get_equal_drawings(pack, read, picture_format):
    def drawn() -> bytes:
        answer = conclude(pack, read(hardware=GPU24, time=3), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
        return render(builtin_packs()["playbook-1"], answer, picture_format).SerializeToString(deterministic=True)

    assert drawn() == drawn()
