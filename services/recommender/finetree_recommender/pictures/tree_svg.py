# SPDX-License-Identifier: Apache-2.0
"""Decision graph as SVG: decisions from top to bottom, outcomes to the right.

The boxes of a side branch are to the right of their decision, and the next decision begins below all of them, so no
two boxes overlap, whatever the pack.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from finetree_recommender.pictures import svg
from finetree_recommender.pictures.graph import GATE, Arrow, Box, Graph, Kind
from finetree_recommender.pictures.path import Path
from finetree_recommender.pictures.svg import Rectangle

MARGIN, WIDTH, GUTTER = 24.0, 236.0, 54.0
"""Widths of the page, of a box and between columns, in px."""
GAP, BELOW = 12.0, 40.0
"""Gaps between boxes of a side branch, and above the next decision (with room for a label), in px."""
PADDING, LEADING = 10.0, 16.0
TOP = 78.0
_SHORT = 6
"""Longest label that is written beside its arrow; a longer one is written in the box that the arrow reaches."""


@dataclass(slots=True)
class Layout:
    """Places of boxes, and the condition that is written in each."""

    places: dict[str, Rectangle] = field(default_factory=dict)
    texts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Lines of each box with their kind."""
    bottom: float = TOP

    @property
    def right(self) -> float:
        """Right edge of the rightmost box."""
        return max(place.right for place in self.places.values())


def lay_out(graph: Graph, path: Path) -> Layout:
    """Places of all boxes."""
    layout = Layout()
    bottom = _Placer(graph, path, layout).place(GATE, 0, TOP, condition="")
    bottom = _row(layout, graph.of_kind(Kind.FIT), path, top=bottom + BELOW + LEADING)
    layout.bottom = _row(layout, graph.of_kind(Kind.VOTE), path, top=bottom + BELOW) + MARGIN
    return layout


def tree_svg(graph: Graph, path: Path) -> str:
    """Draw the graph."""
    layout = lay_out(graph, path)
    marked = f" The path of the request ends at: {path.verdict}." if path.verdict else ""
    description = f"{graph.title}: gate, upgrade, override, votes, use cases, tree, order of stars and fit.{marked}"
    width = max(layout.right, 3 * WIDTH + 2 * GUTTER + MARGIN) + MARGIN
    body = [svg.words(MARGIN, 34, graph.title, kind="title"), *_subtitle(path, width)]
    body += [drawn for arrow in graph.arrows for drawn in _arrow(graph, layout, arrow, path=path)]
    body += [drawn for box in graph.boxes.values() for drawn in _box(layout, box, path)]
    fit = layout.places[graph.of_kind(Kind.FIT)[0].id]
    body.append(svg.words(MARGIN, fit.y - 10, "Then, for every outcome", kind="heading"))
    first_vote = min((layout.places[box.id].y for box in graph.of_kind(Kind.VOTE)), default=fit.y)
    body.append(svg.words(MARGIN, first_vote - 10, "The votes", kind="heading"))
    return svg.document(graph.title, description, width, height=layout.bottom, body=body)


class _Placer:
    """Places the boxes that are reached from the gate."""

    def __init__(self, graph: Graph, path: Path, layout: Layout) -> None:
        self._graph = graph
        self._path = path
        self._layout = layout

    def place(self, box_id: str, column: int, top: float, *, condition: str) -> float:
        """Place a box and everything that it leads to, and return the lower edge."""
        box = self._graph.boxes[box_id]
        texts = _texts(box, self._path, WIDTH, condition=condition)
        place = Rectangle(MARGIN + column * (WIDTH + GUTTER), top, WIDTH, _height(texts))
        self._layout.places[box_id], self._layout.texts[box_id] = place, texts
        arrows = [a for a in self._graph.leaving(box_id) if self._graph.boxes[a.end].kind is not Kind.FIT]
        bottom, aside = place.bottom, top
        for arrow in arrows:
            if not arrow.onward:
                lowest = self.place(arrow.end, column + 1, aside, condition=_condition(arrow))
                bottom, aside = max(bottom, lowest), lowest + GAP
        for arrow in arrows:
            if arrow.onward:
                bottom = self.place(arrow.end, column, bottom + BELOW, condition="")
        return bottom


def _row(layout: Layout, boxes: list[Box], path: Path, *, top: float) -> float:
    """Place boxes side by side, three in a row, and return the lower edge."""
    columns = 3
    width = (columns * WIDTH + (columns - 1) * GUTTER / 2) / columns
    lowest = top
    for start in range(0, len(boxes), columns):
        top = lowest + (GAP if start else 0)
        for column, box in enumerate(boxes[start : start + columns]):
            texts = _texts(box, path, width, condition="")
            place = Rectangle(MARGIN + column * (width + GUTTER / 2), top, width, _height(texts))
            layout.places[box.id], layout.texts[box.id] = place, texts
            lowest = max(lowest, place.bottom)
    return lowest


def _condition(arrow: Arrow) -> str:
    return arrow.label if len(arrow.label) > _SHORT else ""


def _texts(box: Box, path: Path, width: float, *, condition: str) -> list[tuple[str, str]]:
    """Lines of a box: its condition, its words, its further lines."""
    room = width - 2 * PADDING
    texts = [(line, "note") for line in svg.wrap(condition, room, "note")]
    kind = "heading" if box.kind in (Kind.OUTCOME, Kind.VOTE) else "strong"
    texts += [(line, kind) for line in svg.wrap(box.label, room, kind)]
    for line in box.lines:
        look = "mark" if path.applied(line.rule_id) else "note"
        texts += [(part, look) for part in svg.wrap(line.text, room, look)]
    return texts


def _height(texts: list[tuple[str, str]]) -> float:
    return 2 * PADDING + LEADING * len(texts) - 4


def _box(layout: Layout, box: Box, path: Path) -> Iterator[str]:
    place = layout.places[box.id]
    yield svg.rectangle(place, box.kind.lower(), taken=path.passes(box.id))
    for row, (line, kind) in enumerate(layout.texts[box.id]):
        yield svg.words(place.x + PADDING, place.y + PADDING + LEADING * (row + 0.72), line, kind=kind)


def _arrow(graph: Graph, layout: Layout, arrow: Arrow, *, path: Path) -> Iterator[str]:
    """Draw an arrow down or to the right; arrows to the last stages are only drawn inside their row."""
    start, end = layout.places[arrow.start], layout.places[arrow.end]
    taken = path.passes(arrow.id)
    if graph.boxes[arrow.end].kind is Kind.FIT:
        if graph.boxes[arrow.start].kind is Kind.FIT:
            middle = start.y + min(start.height, end.height) / 2
            yield svg.path([(start.right, middle), (end.x, middle)], taken=taken)
        return
    if arrow.onward:
        x = start.x + 22
        yield svg.path([(x, start.bottom), (x, end.y)], taken=taken)
        yield svg.words(x + 10, end.y - 14, arrow.label, kind="mark" if taken else "note")
        return
    level, entry = start.y + 18, end.y + 18
    turn = start.right + GUTTER / 2 - 8
    points = [(start.right, level), (turn, level), (turn, entry), (end.x, entry)]
    yield svg.path(points if entry != level else [points[0], points[-1]], taken=taken)
    if not _condition(arrow):
        yield svg.words(start.right + 6, level - 6, arrow.label, kind="mark" if taken else "note")


def _subtitle(path: Path, width: float) -> Iterator[str]:
    if path.verdict:
        shown = svg.wrap(f"Marked: the path of this request. Verdict: {path.verdict}", width - 2 * MARGIN, "mark")
        yield svg.words(MARGIN, 58, shown[0] + (" …" if len(shown) > 1 else ""), kind="mark")
