# SPDX-License-Identifier: Apache-2.0
"""Decision graph as lines of text: decisions from top to bottom, outcomes indented."""

import textwrap
from collections.abc import Iterator

from finetree_recommender.pictures.graph import GATE, Arrow, Box, Graph, Kind
from finetree_recommender.pictures.path import Path

COLUMNS = 100
"""Longest line, in characters."""
_MARK = "=> "
_LEGEND = "Lines that begin with => are the path of this request."


def text(graph: Graph, path: Path) -> str:
    """Write the graph."""
    lines = [graph.title]
    if path.ids:
        lines.append(_LEGEND)
    lines += ["", *_Writer(graph, path).tree(GATE, "")]
    lines += ["", "Then, for every outcome:", *_boxes(graph.of_kind(Kind.FIT), path)]
    if path.verdict:
        lines += _wrapped(f"verdict: {path.verdict}", _MARK, "   ")
    lines += ["", "The votes:", *_boxes(graph.of_kind(Kind.VOTE), path)]
    return "\n".join(lines) + "\n"


class _Writer:
    """Walks the graph; `rail` is the text to the left of an indented line."""

    def __init__(self, graph: Graph, path: Path) -> None:
        self._graph = graph
        self._path = path

    def tree(self, box_id: str, rail: str) -> Iterator[str]:
        box = self._graph.boxes[box_id]
        arrows = [arrow for arrow in self._graph.leaving(box_id) if self._drawn(arrow)]
        yield from _node(box, self._path, rail)
        for arrow in arrows:
            if not arrow.onward:
                yield from self._aside(arrow, rail)
        for arrow in arrows:
            if arrow.onward:
                yield from self._line(arrow, rail, "|  ", words=f"{arrow.label}:")
                yield from self.tree(arrow.end, rail)

    def _aside(self, arrow: Arrow, rail: str) -> Iterator[str]:
        """Write a side branch; one that chooses at once takes a single line."""
        box = self._graph.boxes[arrow.end]
        if box.kind is Kind.OUTCOME:
            yield from self._line(arrow, rail, "+- ", words=f"{arrow.label} -> {box.label}")
            return
        yield from self._line(arrow, rail, "+- ", words=f"{arrow.label}:")
        yield from self.tree(arrow.end, f"{rail}|  ")

    def _line(self, arrow: Arrow, rail: str, branch: str, *, words: str) -> Iterator[str]:
        mark = _MARK if self._path.passes(arrow.id) else "   "
        yield from _wrapped(words, f"{mark}{rail}{branch}", f"   {rail}|     ")

    def _drawn(self, arrow: Arrow) -> bool:
        """Whether an arrow is written where it starts; those to the last stages are written once, at the end."""
        return self._graph.boxes[arrow.end].kind is not Kind.FIT


def _node(box: Box, path: Path, rail: str) -> Iterator[str]:
    mark = _MARK if path.passes(box.id) else "   "
    words = f"-> {box.label}" if box.kind is Kind.OUTCOME else f"[{box.id}] {box.label}"
    yield from _wrapped(words, f"{mark}{rail}", f"   {rail}   ")
    for line in box.lines:
        mark = _MARK if path.applied(line.rule_id) else "   "
        yield from _wrapped(line.text, f"{mark}{rail}|    . ", f"   {rail}|      ")


def _boxes(boxes: list[Box], path: Path) -> Iterator[str]:
    for box in boxes:
        yield from _node(box, path, "")


def _wrapped(words: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(words, COLUMNS, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [
        first.rstrip()
    ]
