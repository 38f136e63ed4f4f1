# SPDX-License-Identifier: Apache-2.0
"""The five methods as SVG: one row each, with columns for quality, memory, time and cost.

Four dimensions do not fit into one plane of points whose labels stay apart; rows do, and every interval is seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetree_api.recommender.v1 import picture_pb2
from finetree_api.types.v1 import evidence_pb2

from finetree_recommender.decision.fit import GIB
from finetree_recommender.explain.assessment import Assessment
from finetree_recommender.explain.reasons import Standing
from finetree_recommender.messages.summary import headline
from finetree_recommender.pictures import svg
from finetree_recommender.pictures.axis import Axis, axis
from finetree_recommender.pictures.svg import Rectangle, number
from finetree_recommender.recommend import Recommendation

MARGIN, LABELS, PANEL, GUTTER = 24.0, 190.0, 206.0, 34.0
TOP, ROW = 118.0, 58.0
WIDTH = MARGIN + LABELS + 4 * (PANEL + GUTTER) - GUTTER + MARGIN
_FOOT = 74.0


@dataclass(frozen=True, slots=True)
class _Column:
    """Column of a figure: title, unit, base units of that unit, how to read it, and the note where it is missing."""

    title: str
    unit: str
    scale: float
    read: Callable[[Assessment], evidence_pb2.Interval | None]
    missing: str
    better: str = "less is better"
    from_zero: bool = True


def render(answer: Recommendation) -> picture_pb2.RenderFrontierResponse:
    """Draw the methods of an answer."""
    return picture_pb2.RenderFrontierResponse(
        media_type="image/svg+xml", content=frontier_svg(answer), revision=answer.revision
    )


def frontier_svg(answer: Recommendation) -> str:
    """Draw the rows: the recommendation first, then the frontier, dominated methods, and methods that do not fit."""
    rows = sorted(answer.methods, key=_rank)
    height = TOP + ROW * len(rows) + _FOOT
    title = "Quality, memory, time and cost of the five methods"
    body = [
        svg.words(MARGIN, 34, title, kind="title"),
        svg.words(MARGIN, 58, f"Verdict: {headline(answer)}", kind="note"),
    ]
    for index, column in enumerate(_columns(answer)):
        left = MARGIN + LABELS + index * (PANEL + GUTTER)
        body += _panel(column, rows, left, limit=_limit(answer) if index == 1 else None)
    for index, item in enumerate(rows):
        body += _label(answer, item, TOP + ROW * index)
    body += _legend(answer, TOP + ROW * len(rows) + 44)
    description = "; ".join(f"{answer.pack.card(item.method).title}: {_status(answer, item)}" for item in rows)
    return svg.document(title, description, WIDTH, height=height, body=body)


def _rank(item: Assessment) -> tuple[bool, bool, bool]:
    return (item.standing is not Standing.RECOMMENDED, not item.on_frontier, item.dominated_by is None)


def _columns(answer: Recommendation) -> list[_Column]:
    unit, scale = _time_unit(answer)
    rows_missing = "unknown: how many rows are there?"
    timed = any(item.figures.total_seconds is not None for item in answer.methods)
    price_missing = "unknown: there is no price for this hardware" if timed else rows_missing
    quality = "% of full fine-tuning"
    currency = next((cost.currency_code for item in answer.methods if (cost := item.figures.cost) is not None), "USD")
    return [
        _Column(
            "Quality", quality, 1, lambda m: m.figures.quality_percent, "unknown", "more is better", from_zero=False
        ),
        _Column("Device memory", "GiB", GIB, lambda m: m.figures.device_bytes, "unknown without the estimator"),
        _Column("Time", unit, scale, lambda m: m.figures.total_seconds, rows_missing),
        _Column("Cost", currency, 1, _cost, price_missing),
    ]


def _cost(item: Assessment) -> evidence_pb2.Interval | None:
    return item.figures.cost.amount if item.figures.cost is not None else None


def _time_unit(answer: Recommendation) -> tuple[str, float]:
    times = (item.figures.total_seconds for item in answer.methods)
    longest = max((time.high for time in times if time is not None), default=0)
    if longest < 120:
        return "seconds", 1
    if longest < 2 * 3600:
        return "minutes", 60
    return ("hours", 3600) if longest < 4 * 86400 else ("days", 86400)


def _limit(answer: Recommendation) -> float | None:
    """Memory that is available on the device in GiB; None where nothing was estimated."""
    offered = [item.usable_bytes for item in answer.methods if item.usable_bytes]
    return offered[0] / GIB if offered else None


def _panel(column: _Column, rows: list[Assessment], left: float, *, limit: float | None) -> Iterator[str]:
    intervals = [column.read(item) for item in rows]
    known = [interval for interval in intervals if interval is not None]
    yield svg.words(left, TOP - 34, f"{column.title}, {column.unit}", kind="heading")
    bottom = TOP + ROW * len(rows)
    if not known:
        for index, line in enumerate(svg.wrap(column.missing, PANEL, "note")):
            yield svg.words(left, TOP + 30 + 16 * index, line, kind="note")
        return
    ends = [value / column.scale for interval in known for value in (interval.low, interval.high)]
    scale = axis([*ends, *([limit] if limit else [])], left, left + PANEL, from_zero=column.from_zero)
    yield svg.words(left, TOP - 18, column.better + (", logarithmic" if scale.logarithmic else ""), kind="note")
    yield from _grid(scale, bottom)
    if limit:
        yield _line((scale.at(limit), TOP), (scale.at(limit), bottom), "limit", color=svg.INK, width=1.5)
    for index, (item, interval) in enumerate(zip(rows, intervals, strict=True)):
        if interval is None:
            yield svg.words(left, TOP + ROW * index + 32, "unknown", kind="note")
        else:
            yield from _range(scale, item, interval, unit=column.scale, top=TOP + ROW * index)


def _grid(scale: Axis, bottom: float) -> Iterator[str]:
    yield _line((scale.left, bottom), (scale.right, bottom), "axis", color=svg.LINE, width=1)
    edge = -1e9
    for tick in scale.ticks():
        x = scale.at(tick)
        yield _line((x, TOP), (x, bottom), "grid", color="#e4e7eb", width=1)
        text = f"{tick:g}"
        half = svg.length(text, "note") / 2
        if x - half > edge:
            yield svg.words(x, bottom + 16, text, kind="note", anchor="middle")
            edge = x + half + 4


def _range(scale: Axis, item: Assessment, interval: evidence_pb2.Interval, *, unit: float, top: float) -> Iterator[str]:
    """Draw the interval as a bar and the expected value as a mark with its number above."""
    y = top + 36
    left, x, right = (scale.at(value / unit) for value in (interval.low, interval.expected, interval.high))
    color, mark = _looks(item)
    yield _line((left, y), (right, y), f"interval {mark}", color=color, width=4)
    yield from (_line((end, y - 5), (end, y + 5), f"interval {mark}", color=color, width=1.5) for end in (left, right))
    fill = color if mark == "frontier" else svg.GROUND
    look = f'fill="{fill}" stroke="{color}" stroke-width="2"'
    yield f'<circle class="point {mark}" cx="{number(x)}" cy="{number(y)}" r="5" {look}/>'
    text = _amount(interval.expected / unit)
    half = svg.length(text, "value") / 2
    yield svg.words(min(max(x, scale.left + half), scale.right - half), y - 12, text, kind="value", anchor="middle")


def _looks(item: Assessment) -> tuple[str, str]:
    if item.on_frontier:
        return svg.TAKEN, "frontier"
    return (svg.FAINT, "dominated") if item.dominated_by is not None else ("#b42318", "excluded")


def _label(answer: Recommendation, item: Assessment, top: float) -> Iterator[str]:
    if item.standing is Standing.RECOMMENDED:
        yield svg.rectangle(Rectangle(MARGIN - 10, top + 4, LABELS - 6, ROW - 8), "verdict")
    yield svg.words(MARGIN, top + 25, answer.pack.card(item.method).title, kind="heading")
    lines = svg.wrap(_status(answer, item), LABELS - 24, "note")
    yield svg.words(MARGIN, top + 42, lines[0], kind="note")


def _status(answer: Recommendation, item: Assessment) -> str:
    if item.on_frontier:
        return "on the frontier"
    if item.dominated_by is not None:
        return f"dominated by {answer.pack.card(item.dominated_by).title}"
    if any(reason.code == "DOES_NOT_FIT" for reason in item.reasons):
        return "does not fit"
    return "not compared"


def _legend(answer: Recommendation, y: float) -> Iterator[str]:
    estimated = _limit(answer) is not None
    source = "the estimator's" if estimated else f"those of {answer.pack.rules.id}, for a 7B model"
    first = (
        "Bars: interval; marks: expected value. Filled: on the frontier; hollow: dominated, or (red) not comparable."
    )
    limit = " The upright line is the memory that the device offers." if estimated else ""
    yield svg.words(MARGIN, y, first + limit, kind="note")
    text = f"Quality is of {answer.pack.rules.id}; memory, time and cost are {source}. Figures that lie in each other's"
    yield svg.words(MARGIN, y + 16, f"{text} interval count as equal.", kind="note")


def _amount(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _line(start: tuple[float, float], end: tuple[float, float], kind: str, *, color: str, width: float) -> str:
    place = f'x1="{number(start[0])}" y1="{number(start[1])}" x2="{number(end[0])}" y2="{number(end[1])}"'
    return f'<line class="{kind}" {place} stroke="{color}" stroke-width="{width:g}"/>'
