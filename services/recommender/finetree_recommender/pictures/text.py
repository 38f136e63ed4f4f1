# SPDX-License-Identifier: Apache-2.0
"""The decision graph as lines of text: what decides goes down, what comes of it is set in."""

import textwrap
from collections.abc import Iterator

from finetree_recommender.pictures.graph import GATE, Arrow, Box, Graph, Kind
from finetree_recommender.pictures.path import Way

COLUMNS = 100
"""Longest line, in characters."""
_MARK = "=> "
_LEGEND = "Lines that begin with => are the way of this request."


def text(graph: Graph, way: Way) -> str:
    """The picture."""
    lines = [graph.title]
    if way.ids:
        lines.append(_LEGEND)
    lines += ["", *_Writer(graph, way).tree(GATE, "")]
    lines += ["", "Then, for every outcome:", *_boxes(graph.of_kind(Kind.FIT), way)]
    if way.verdict:
        lines += _wrapped(f"verdict: {way.verdict}", _MARK, "   ")
    lines += ["", "The votes:", *_boxes(graph.of_kind(Kind.VOTE), way)]
    return "\n".join(lines) + "\n"


class _Writer:
    """Walks the graph; `rail` is what stands left of a line that is set in."""

    def __init__(self, graph: Graph, way: Way) -> None:
        self._graph = graph
        self._way = way

    def tree(self, box_id: str, rail: str) -> Iterator[str]:
        box = self._graph.boxes[box_id]
        arrows = [arrow for arrow in self._graph.leaving(box_id) if self._drawn(arrow)]
        yield from _told(box, self._way, rail)
        for arrow in arrows:
            if not arrow.onward:
                yield from self._aside(arrow, rail)
        for arrow in arrows:
            if arrow.onward:
                yield from self._line(arrow, rail, "|  ", f"{arrow.label}:")
                yield from self.tree(arrow.end, rail)

    def _aside(self, arrow: Arrow, rail: str) -> Iterator[str]:
        """A branch to the side; one that chooses at once takes a single line."""
        box = self._graph.boxes[arrow.end]
        if box.kind is Kind.OUTCOME:
            yield from self._line(arrow, rail, "+- ", f"{arrow.label} -> {box.label}")
            return
        yield from self._line(arrow, rail, "+- ", f"{arrow.label}:")
        yield from self.tree(arrow.end, f"{rail}|  ")

    def _line(self, arrow: Arrow, rail: str, branch: str, words: str) -> Iterator[str]:
        mark = _MARK if self._way.passes(arrow.id) else "   "
        yield from _wrapped(words, f"{mark}{rail}{branch}", f"   {rail}|     ")

    def _drawn(self, arrow: Arrow) -> bool:
        """Arrows to what comes after every outcome are told once, below."""
        return self._graph.boxes[arrow.end].kind is not Kind.FIT


def _told(box: Box, way: Way, rail: str) -> Iterator[str]:
    mark = _MARK if way.passes(box.id) else "   "
    words = f"-> {box.label}" if box.kind is Kind.OUTCOME else f"[{box.id}] {box.label}"
    yield from _wrapped(words, f"{mark}{rail}", f"   {rail}   ")
    for line in box.lines:
        mark = _MARK if way.applied(line.rule_id) else "   "
        yield from _wrapped(line.text, f"{mark}{rail}|    . ", f"   {rail}|      ")


def _boxes(boxes: list[Box], way: Way) -> Iterator[str]:
    for box in boxes:
        yield from _told(box, way, "")


def _wrapped(words: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(words, COLUMNS, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [
        first.rstrip()
    ]
