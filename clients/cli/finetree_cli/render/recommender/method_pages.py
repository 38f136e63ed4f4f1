# SPDX-License-Identifier: Apache-2.0
"""What a rule pack says of the methods, one screen a subject: at most 24 lines, and 100 columns."""

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence

from finetree.quantities import approximate_duration
from finetree_api.recommender.v1 import method_card_pb2

from finetree_cli.output import Output
from finetree_cli.render import units
from finetree_cli.render.recommender.recommendation import method_name

Cards = Sequence[method_card_pb2.MethodCard]
Guide = method_card_pb2.Guide
Page = Callable[[Cards, Guide], Iterator[str]]
"""Writes the lines of a page; a line that is too long is wrapped under its own beginning."""

MOST_COLUMNS = 100
POPULAR = "most popular"
BARS, AXIS, PREFIX_COST = "literal.bars", "literal.bar_axis", "literal.prefix_cost"
AXES = "literal.axes"
"""Statements of the source that pages quote."""
_COMPARED = ("memory_percent", "speed_factor")
"""Figures that are of a model of some size; a note says which where it is not the usual 7B."""
_SIZE = re.compile(r"\b\d+B\b")
_AGAINST = " against full fine-tuning"
_HANGING = "\t"
"""In a line, the place under which what is wrapped begins."""


def show_page(out: Output, name: str, cards: Cards, guide: Guide) -> None:
    """Print a page of `PAGES`."""
    width = min(out.console().width, MOST_COLUMNS)
    lines = list(PAGES[name](cards, guide))
    for line in lines or [f"The rule pack says nothing on {name.replace('-', ' ')}."]:
        for part in _fitted(line, width):
            out.text(part)


def show_card(out: Output, card: method_card_pb2.MethodCard, guide: Guide) -> None:
    """Print what a person should know of one method."""
    width = min(out.console().width, MOST_COLUMNS)
    for line in _card(card, guide):
        for part in _fitted(line, width):
            out.text(part)


def _fitted(line: str, width: int) -> list[str]:
    indent = line.find(_HANGING)
    plain = line.replace(_HANGING, "")
    if len(plain) <= width:
        return [plain.rstrip()]
    return textwrap.wrap(plain, width, subsequent_indent=" " * max(indent, 0), break_on_hyphens=False)


def _overview(cards: Cards, _: Guide) -> Iterator[str]:
    rows = [("Method", "Stars", "GPU from", "Quality", "Memory", "Speed", "Cost", "Best for")]
    rows += [
        (
            card.title,
            _stars(card),
            f"{card.minimum_gpu_gb:g} GB" if card.minimum_gpu_gb else "",
            f"{card.quality_percent.expected:.0f} %" if card.HasField("quality_percent") else "",
            _figure(card, "memory_percent"),
            _times(card),
            _figure(card, "cost_level"),
            card.best_for,
        )
        for card in cards
    ]
    yield from _columns(rows)
    yield ""
    popular = [card for card in cards if POPULAR in card.badges]
    for card in popular:
        share = _figure(card, "share_percent")
        yield f"Most popular: {card.title}{f' ({share} of users)' if share else ''}. {card.tooltip}"
    figures = [figure for card in cards for figure in card.figures if figure.name in _COMPARED]
    measured = any(_SIZE.search(figure.note) for figure in figures)
    sizes = "as --full of each says of which model" if measured else "for a 7B model"
    yield f"Quality, memory and speed are against full fine-tuning, {sizes}; ! is a warning."
    untrained = [card.title for card in cards if not card.trainable_here]
    if untrained:
        yield f"Not trained by this suite: {', '.join(untrained)}."
    yield ""
    yield "finetree methods METHOD   \tone of them: full, lora, qlora, prefix, adapter"
    yield f"finetree methods TOPIC    \t{', '.join(name for name in PAGES if name != 'overview')}"
    yield "finetree recommend        \twhich of them to use for your model, hardware and data"


def _plot(cards: Cards, guide: Guide) -> Iterator[str]:
    """Quality by method, with the bars, the axis and the labels of the source's plots."""
    bars = {item.name: item.text for item in _values(guide, BARS)}
    if not bars:
        return
    yield "Quality against resources, as the source draws it"
    yield ""
    ordered = sorted(cards, key=lambda card: -card.quality_percent.expected)
    for card in ordered:
        name = method_name(card.method)
        bar = "\N{FULL BLOCK}" * int(bars.get(name, "0"))
        star = " *" if POPULAR in card.badges else ""
        label = f"  {card.minimum_gpu_gb:g} GB, {card.efficiency_label}{star}"
        yield f"{card.quality_percent.expected:4.0f} %  {name:16}  {bar}{label}"
    axis = [item.text.capitalize() for item in _values(guide, AXIS)]
    titles = {item.name: item.text for item in _values(guide, AXES)}
    if axis:
        yield f"{'':26}{'   '.join(axis)}  -> {titles.get('bars', '')}".rstrip()
    yield ""
    if titles:
        second = f"A second plot has the same labels over {titles['plot']}, without adapter layers."
        yield f"Upward: {titles['upward']}. {second}"
    yield f"Bars of {', '.join(bars.values())} characters: {_decision(guide, BARS)}"
    yield "* most popular"


def _scenarios(_: Cards, guide: Guide) -> Iterator[str]:
    for item in guide.scenarios:
        yield f"{item.title}: {method_name(item.method)}"
        yield f"  asks     \t{', '.join(item.requirements)}"
        yield f"  because  \t{', '.join(item.reasons)}"
        if item.note:
            yield f"  note     \t{item.note}"


def _situations(_: Cards, guide: Guide) -> Iterator[str]:
    rows = [(item.title, method_name(item.method), "; ".join(item.reasons)) for item in guide.situations]
    yield from _columns(rows)


def _quick_reference(_: Cards, guide: Guide) -> Iterator[str]:
    yield from _columns([(item.title, method_name(item.method), _settings(item)) for item in guide.quick_reference])


def _settings(item: method_card_pb2.Situation) -> str:
    """The settings of an entry: "rank 8, alpha 16, dropout 0.1"."""
    from finetree_cli.output import as_dict

    if not item.HasField("settings"):
        return ""
    found = as_dict(item.settings)
    inner = next((value for value in found.values() if isinstance(value, dict)), {})
    words = {"quantization": lambda value: "4-bit base" if "NF4" in str(value) else str(value)}
    return ", ".join(
        words[name](value) if name in words else f"{name} {value:g}" for name, value in inner.items() if value != {}
    )


def _badges(cards: Cards, _: Guide) -> Iterator[str]:
    for card in cards:
        yield f"{card.title}  {_stars(card)}".rstrip()
        width = max((len(badge.label) for badge in card.badge_details), default=0)
        for badge in card.badge_details:
            yield f"  {badge.label:{width}}  \t{badge.tooltip}"


def _hardware(_: Cards, guide: Guide) -> Iterator[str]:
    rows = [("GPU", "Memory", "Method", "A run", "A month", "Note")]
    rows += [
        (
            item.accelerator,
            f"{item.marketed_memory_gb:g} GB",
            method_name(item.method),
            approximate_duration(item.total_seconds.expected) if item.HasField("total_seconds") else "",
            _month(item),
            item.note,
        )
        for item in guide.hardware
    ]
    yield from _columns(rows if len(rows) > 1 else [])


def _month(item: method_card_pb2.HardwareRow) -> str:
    if not item.HasField("cost_per_month"):
        return ""
    return f"{_dollars(item.cost_per_month.amount.expected)}{'+' if item.cost_open_ended else ''}"


def _costs(cards: Cards, guide: Guide) -> Iterator[str]:
    """Time and cost by number of rows, on each method's reference GPU."""
    found = [card for card in cards if card.reference_cost.rows]
    if not found:
        return
    sizes = [row.examples for row in found[0].reference_cost.rows]
    yield f"Time and cost by number of rows, for {found[0].reference_cost.basis}"
    yield ""
    rows = [("Method", *(f"{size:,} rows" for size in sizes))]
    places = []
    for card in found:
        cost = card.reference_cost
        cells = [
            f"{approximate_duration(row.total_seconds.expected)}, {_dollars(row.cost.amount.expected)}"
            for row in cost.rows
        ]
        rows.append((card.title, *cells))
        places.append(f"{card.title} on {cost.accelerator} at {units.expected_money(cost.price_per_hour)} an hour")
    yield from _columns(rows)
    yield ""
    yield f"{'; '.join(places)}."
    for item in _values(guide, PREFIX_COST):
        yield ""
        yield f"The source prints ${item.text} for {item.name} over 1,000 rows: {_decision(guide, PREFIX_COST)}"


def _dollars(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 10 and amount == round(amount) else f"${amount:,.2f}"


def _ranks(cards: Cards, _: Guide) -> Iterator[str]:
    yield from _choices(cards, "lora.rank", "Rank of LoRA: more rank, more quality and less speed")


def _bits(cards: Cards, _: Guide) -> Iterator[str]:
    yield from _choices(cards, "qlora.quantization", "Bits of QLoRA's base")


def _choices(cards: Cards, path: str, title: str) -> Iterator[str]:
    """The values of a setting that the pack compares."""
    guides = [item for card in cards for item in card.parameters if item.field_path == path and item.choices]
    if not guides:
        return
    yield f"{title} ({path})"
    yield ""
    for choice in guides[0].choices:
        star = " *" if choice.recommended else ""
        facts = [choice.label, *([f"for {' and '.join(choice.use_for)}"] if choice.use_for else [])]
        if choice.HasField("quality_percent"):
            facts.append(f"{choice.quality_percent.low:g} to {choice.quality_percent.high:g} % quality")
        if choice.minimum_gpu_gb:
            facts.append(f"a GPU of {choice.minimum_gpu_gb:g} GB")
        value = choice.value.removeprefix("QUANTIZATION_").lower()
        yield f"  {value + star:8}\t{'; '.join(facts)}"
        if choice.note:
            yield f"  {'':8}\t{choice.note}"
    yield ""
    yield "* recommended"


def _card(card: method_card_pb2.MethodCard, guide: Guide) -> Iterator[str]:
    words = [word for word in (_stars(card), *card.badges) if word]
    yield f"{card.title}  {' · '.join(words)}".rstrip()
    yield card.description
    yield ""
    if card.when_to_use:
        yield f"Use it for   \t{'; '.join(card.when_to_use)}"
    if card.when_not_to_use:
        yield f"Not for      \t{'; '.join(card.when_not_to_use)}"
    figures = [f"GPU from {card.minimum_gpu_gb:g} GB"] if card.minimum_gpu_gb else []
    if card.HasField("quality_percent"):
        found = card.quality_percent
        ends = f"{found.low:g} to {found.high:g} %" if found.low < found.high else f"{found.expected:g} %"
        figures.append(f"quality{_AGAINST}: {ends}")
    # Said once, and meant for memory and speed too.
    figures += [f"{item.label.lower().removesuffix(_AGAINST)}: {item.text}" for item in card.figures]
    if figures:
        yield f"Figures      \t{'; '.join(figures)}"
    cost = card.reference_cost
    if cost.rows:
        cells = [
            f"{row.examples:,} rows {approximate_duration(row.total_seconds.expected)}, "
            f"{_dollars(row.cost.amount.expected)}"
            for row in cost.rows
        ]
        price = units.expected_money(cost.price_per_hour)
        yield f"Time, cost   \t{'; '.join(cells)} (7B on {cost.accelerator} at {price} an hour)"
    for item in _values(guide, PREFIX_COST):
        if item.name == method_name(card.method):
            yield f"             \tthe source prints ${item.text} for 1,000 rows: {_decision(guide, PREFIX_COST)}"
    names = [item.field_path.rpartition(".")[2].replace("_", " ") for item in card.parameters]
    width = max([11, *map(len, names)])
    for name, setting in zip(names, card.parameters, strict=True):
        yield f"{name:{width}}  \t{setting.default_value}: {setting.help}"
    yield ""
    yield "--full: sources, results of others, and which values to choose"


def _values(guide: Guide, statement: str) -> Sequence[method_card_pb2.StatedValue]:
    return next((item.values for item in guide.superseded if item.id == statement), ())


def _decision(guide: Guide, statement: str) -> str:
    """What holds in place of a statement, as the continuation of a sentence."""
    found = next(item.decision for item in guide.superseded if item.id == statement)
    return found[:1].lower() + found[1:]


def _stars(card: method_card_pb2.MethodCard) -> str:
    return "!" if card.warning else "*" * card.stars


def _figure(card: method_card_pb2.MethodCard, name: str) -> str:
    return next((figure.text for figure in card.figures if figure.name == name), "")


def _times(card: method_card_pb2.MethodCard) -> str:
    found = next((figure for figure in card.figures if figure.name == "speed_factor"), None)
    return f"{found.interval.expected:g}x" if found is not None and found.HasField("interval") else ""


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Pad the columns but the last; what is wrapped of it stands under its beginning."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        padded = "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False))
        yield f"{padded}  \t{row[-1]}"


PAGES: dict[str, Page] = {
    "overview": _overview,
    "situations": _situations,
    "scenarios": _scenarios,
    "quick-reference": _quick_reference,
    "badges": _badges,
    "hardware": _hardware,
    "costs": _costs,
    "ranks": _ranks,
    "bits": _bits,
    "plot": _plot,
}
"""Pages by name, in the order in which they are named to the user."""
