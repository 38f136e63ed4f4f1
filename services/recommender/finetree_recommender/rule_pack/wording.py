# SPDX-License-Identifier: Apache-2.0
"""Rules of a pack, in words."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import singledispatch
from typing import Any

from finetree_recommender.method import listed, target
from finetree_recommender.rule_pack.schema.basic import Cited, MethodOrder, Number, Resolution, When
from finetree_recommender.rule_pack.schema.limits import Bracket
from finetree_recommender.rule_pack.schema.recipe import Adaptation, BatchStart, Computed, Row, Table
from finetree_recommender.rule_pack.schema.rules import CautionRule, Leaf, MemoryClass, Node, Option, UpgradeRule


def rule_words(section: object) -> Iterator[tuple[str, str, str]]:
    """Yield id, words and source of every rule of a section, in its order."""
    if isinstance(section, Mapping):
        section = tuple(section.values())
    if isinstance(section, tuple):
        for item in section:
            yield from rule_words(item)
    elif isinstance(section, Table):
        for row in section.rows:
            yield row.id, f"{section.knob}: {words(row)}", row.source
    elif dataclasses.is_dataclass(section):
        if hasattr(section, "id"):
            yield section.id, words(section), getattr(section, "source", "")
        for field in dataclasses.fields(section):
            yield from rule_words(getattr(section, field.name))


def when_words(when: When) -> str:
    """Describe a condition in words."""
    parts = (
        f"{name.replace('_', ' ')} is {' or '.join(word.lower() for word in allowed)}" for name, allowed in when.items()
    )
    return " and ".join(parts) or "always"


def node_words(node: Node) -> str:
    """Describe the question of a node of the tree."""
    fits = f"there is room for {node.needs}" if node.needs is not None else ""
    return " and ".join(part for part in (fits, when_words(node.when) if node.when or not fits else "") if part)


@singledispatch
def words(rule: Any) -> str:
    """Describe a rule, by its values where its kind has no words of its own."""
    named = (field.name for field in dataclasses.fields(rule) if field.name not in ("id", "source"))
    values = ((name, getattr(rule, name)) for name in named)
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in values if _is_plain(value))


def _is_plain(value: object) -> bool:
    return value not in ("", None) and isinstance(value, str | int | float | Enum)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@words.register
def _(rule: MemoryClass) -> str:
    text = _range(rule.low, rule.high, "GB")
    return f"{text}: upgrade the GPU" if rule.upgrade else text


@words.register
def _(rule: Bracket) -> str:
    return _range(rule.low, rule.high, rule.unit)


def _range(low: float, high: float, unit: str) -> str:
    return f"from {low:g} {unit} on" if math.isinf(high) else f"{low:g} to {high:g} {unit}"


@words.register
def _(rule: Cited) -> str:
    return rule.source.partition(": ")[2] or rule.source


@words.register
def _(rule: Number) -> str:
    return f"{rule.value:g}"


@words.register
def _(rule: Leaf) -> str:
    unless = f", unless {when_words(rule.unless)}" if rule.unless else ""
    return f"{rule.method} when {when_words(rule.when)}{unless}" if rule.when else f"{rule.method}{unless}"


@words.register
def _(rule: Node) -> str:
    return f"{node_words(rule)}? yes: {target(rule.yes)}; no: {target(rule.no)}"


@words.register
def _(rule: Option) -> str:
    return f"{rule.value.lower()}: {listed(rule.votes) if rule.votes else 'no vote'}"


@words.register
def _(rule: CautionRule) -> str:
    pointer = f"; consider {rule.redirect}" if rule.redirect is not None else ""
    return f"{rule.method} when {when_words(rule.when)}: {rule.text}{pointer}"


@words.register
def _(rule: UpgradeRule) -> str:
    return f"when {when_words(rule.when)}, tried in this order: {listed(rule.order)}"


@words.register
def _(rule: MethodOrder) -> str:
    return listed(rule.methods)


@words.register
def _(rule: Adaptation) -> str:
    return f"{rule.message} ({listed(rule.methods)})"


@words.register
def _(rule: Resolution) -> str:
    return f"{rule.about} {rule.decision}"


@words.register
def _(rule: Row | BatchStart) -> str:
    allowed = f", {rule.range[0]:g} to {rule.range[1]:g}" if rule.range else ""
    value = f"{rule.value:g}" if type(rule.value) is float else str(rule.value)
    return f"{value}{allowed}: {rule.reason}"


@words.register
def _(rule: Computed) -> str:
    return f"{rule.value}: {rule.reason}" if rule.value else rule.reason
