# SPDX-License-Identifier: Apache-2.0
"""Method cards as text."""

from collections.abc import Sequence

from finetree_api.recommender.v1 import method_card_pb2
from finetree_api.types.v1 import evidence_pb2

from finetree_cli.output import Output
from finetree_cli.render import units
from finetree_cli.render.recommender.recommendation import method_name

NONE = "-"


def show_card(out: Output, card: method_card_pb2.MethodCard) -> None:
    """Print one method in full."""
    words = [word for word in (_stars(card), card.efficiency_label, *card.badges) if word]
    out.text(f"{card.title}  {' · '.join(dict.fromkeys(words))}".rstrip())
    for line in (card.tooltip, card.description):
        if line:
            out.text(line)
    _show_list(out, "When to use", card.when_to_use)
    _show_list(out, "When not to use", [_advice(item) for item in card.advice] or card.when_not_to_use)
    _show_figures(out, card)
    _show_hardware(out, card.hardware)
    _show_costs(out, card.reference_cost)
    _show_parameters(out, card.parameters)
    rows = [(item.claim, item.text, _source(item.provenance)) for item in card.evidence]
    if rows:
        out.table(["Published result", ">Value", "Source"], rows, wrap=True)


def _stars(card: method_card_pb2.MethodCard) -> str:
    return "!" if card.warning else "*" * card.stars


def _show_list(out: Output, title: str, items: Sequence[str]) -> None:
    if items:
        out.text(title)
    for item in items:
        out.text(f"  - {item}")


def _advice(item: method_card_pb2.Advice) -> str:
    pointer = f"; consider {' or '.join(method_name(method) for method in item.redirects)}" if item.redirects else ""
    return f"{item.text}{pointer}"


def _show_figures(out: Output, card: method_card_pb2.MethodCard) -> None:
    rows = [(item.label, item.text, item.note, _source(item.provenance)) for item in card.figures]
    if card.HasField("quality_percent"):
        found = card.quality_percent
        words = f"{found.low:g} to {found.high:g} %" if found.low < found.high else f"{found.expected:g} %"
        source = _source(found.provenance[0]) if found.provenance else ""
        rows.insert(0, ("Quality against full fine-tuning", words, "", source))
    if rows:
        out.table(["Figure", ">Value", "Note", "Source"], rows, wrap=True)


def _show_hardware(out: Output, found: Sequence[method_card_pb2.HardwareRow]) -> None:
    rows = [
        (
            item.accelerator,
            f"{item.marketed_memory_gb:g} GB",
            method_name(item.method),
            units.duration(item.total_seconds.expected) if item.HasField("total_seconds") else NONE,
            _month(item),
            item.note,
        )
        for item in found
    ]
    if rows:
        out.table(["GPU", ">Memory", "Method", ">A run", ">A month", "Note"], rows, wrap=True)


def _month(item: method_card_pb2.HardwareRow) -> str:
    if not item.HasField("cost_per_month"):
        return NONE
    return f"{units.expected_money(item.cost_per_month)}{' or more' if item.cost_open_ended else ''}"


def _show_costs(out: Output, found: method_card_pb2.ReferenceCost) -> None:
    rows = [
        (
            units.count(item.examples),
            units.duration(item.total_seconds.expected),
            units.expected_money(item.cost),
        )
        for item in found.rows
    ]
    if rows:
        price = units.expected_money(found.price_per_hour)
        out.text(f"On {found.accelerator} at {price} an hour; {found.basis}")
        out.table([">Examples", ">Time", ">Cost"], rows, wrap=True)


def _show_parameters(out: Output, found: Sequence[method_card_pb2.ParameterGuide]) -> None:
    rows = [(item.field_path, item.default_value, item.help) for item in found]
    if rows:
        out.table(["Parameter", "Default", "Effect"], rows, wrap=True)
    for item in found:
        choices = [
            (
                f"{choice.value}{' (recommended)' if choice.recommended else ''}",
                choice.label,
                ", ".join(choice.use_for),
                choice.note,
            )
            for choice in item.choices
        ]
        if choices:
            out.table([item.field_path, "Meaning", "Use for", "Note"], choices, wrap=True)


def _source(found: evidence_pb2.Provenance) -> str:
    return f"{found.source}, {found.locator}" if found.locator else found.source
