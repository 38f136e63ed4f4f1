# SPDX-License-Identifier: Apache-2.0
"""Reply of RenderDecisionTree."""

from collections.abc import Callable, Iterator

from finetree_api.recommender.v1 import picture_pb2
from finetree_api.types.v1 import evidence_pb2

from finetree_recommender.messages.methods import number
from finetree_recommender.messages.summary import headline
from finetree_recommender.pictures.graph import Box, Graph, build
from finetree_recommender.pictures.mermaid import mermaid
from finetree_recommender.pictures.path import Path, mark
from finetree_recommender.pictures.text import text
from finetree_recommender.pictures.tree_svg import tree_svg
from finetree_recommender.recommend import Recommendation
from finetree_recommender.rule_pack.pack import Pack

SVG_TYPE = "image/svg+xml"
_FORMATS: dict[int, tuple[str, Callable[[Graph, Path], str]]] = {
    picture_pb2.PICTURE_FORMAT_UNSPECIFIED: ("text/plain; charset=utf-8", text),
    picture_pb2.PICTURE_FORMAT_TEXT: ("text/plain; charset=utf-8", text),
    picture_pb2.PICTURE_FORMAT_MERMAID: ("text/vnd.mermaid; charset=utf-8", mermaid),
    picture_pb2.PICTURE_FORMAT_SVG: (SVG_TYPE, tree_svg),
}


def render(
    pack: Pack, answer: Recommendation | None, picture_format: picture_pb2.PictureFormat.ValueType
) -> picture_pb2.RenderDecisionTreeResponse:
    """Draw a pack's decision graph, with the path of an answer marked where there is one."""
    graph = build(pack)
    path = mark(graph, answer, headline(answer)) if answer is not None else Path()
    media_type, draw = _FORMATS[picture_format]
    return picture_pb2.RenderDecisionTreeResponse(
        media_type=media_type,
        content=draw(graph, path),
        nodes=_nodes(pack, graph, path),
        edges=[
            picture_pb2.TreeEdge(id=a.id, from_node=a.start, to_node=a.end, label=a.label, taken=path.passes(a.id))
            for a in graph.arrows
        ],
        taken_ids=path.ids,
        revision=answer.revision if answer is not None else evidence_pb2.Revision(pack=pack.revision),
    )


def _nodes(pack: Pack, graph: Graph, path: Path) -> Iterator[picture_pb2.TreeNode]:
    for box in graph.boxes.values():
        yield picture_pb2.TreeNode(
            id=box.id,
            kind=picture_pb2.TreeNodeKind.Value(f"TREE_NODE_KIND_{box.kind}"),
            label=box.label,
            lines=[
                picture_pb2.TreeLine(rule_id=line.rule_id, text=line.text, taken=path.applied(line.rule_id))
                for line in box.lines
            ],
            method=number(box.method),
            taken=path.passes(box.id),
            provenance=_provenance(pack, box),
        )


def _provenance(pack: Pack, box: Box) -> evidence_pb2.Provenance | None:
    return pack.provenance(box.source) if box.source else None
