# SPDX-License-Identifier: Apache-2.0
"""The decision graph as a Mermaid flow chart."""

from collections.abc import Iterator

from finetree_recommender.pictures.graph import Arrow, Box, Graph, Kind
from finetree_recommender.pictures.path import Path

_SHAPES = {
    Kind.DECISION: ("{{", "}}"),
    Kind.OUTCOME: ("([", "])"),
    Kind.FIT: ("[", "]"),
    Kind.VOTE: ("[", "]"),
}
_ESCAPES = {"&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "`": "#96;"}


def mermaid(graph: Graph, path: Path) -> str:
    """Write the flow chart; Mermaid's own themes color it, and the taken path has a thick border."""
    numbers = {box_id: f"n{number}" for number, box_id in enumerate(graph.boxes)}
    votes = graph.of_kind(Kind.VOTE)
    others = graph.of_kind(Kind.DECISION, Kind.OUTCOME, Kind.FIT)
    lines = ["flowchart TD", f"  accTitle: {_plain(graph.title)}"]
    lines += [f"  {_box(numbers, box, path)}" for box in others]
    lines += ['  subgraph votes["The votes"]', *(f"    {_box(numbers, box, path)}" for box in votes), "  end"]
    lines += [f"  {_arrow(numbers, arrow, path)}" for arrow in graph.arrows]
    lines += _classes(graph, path, numbers)
    return "\n".join(lines) + "\n"


def _box(numbers: dict[str, str], box: Box, path: Path) -> str:
    opening, closing = _SHAPES[box.kind]
    words = [_escaped(box.label)]
    words += [f"{'✓ ' if path.applied(line.rule_id) else ''}{_escaped(line.text)}" for line in box.lines]
    return f'{numbers[box.id]}{opening}"{"<br/>".join(words)}"{closing}'


def _arrow(numbers: dict[str, str], arrow: Arrow, path: Path) -> str:
    line = "==>" if path.passes(arrow.id) else "-->"
    return f'{numbers[arrow.start]} {line}|"{_escaped(arrow.label)}"| {numbers[arrow.end]}'


def _classes(graph: Graph, path: Path, numbers: dict[str, str]) -> Iterator[str]:
    taken = [numbers[box_id] for box_id in graph.boxes if path.passes(box_id)]
    if taken:
        yield "  classDef taken stroke-width:4px,font-weight:bold"
        yield f"  class {','.join(taken)} taken"


def _escaped(text: str) -> str:
    """Escape a text so that it cannot end its quotes or be read as markup."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text if letter.isprintable())


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum() or letter in " -_.")
