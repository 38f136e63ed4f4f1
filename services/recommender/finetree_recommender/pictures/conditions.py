# SPDX-License-Identifier: Apache-2.0
"""Conditions of rules in short words, for drawings."""

import math
from collections.abc import Iterable

from finetree_recommender.rule_pack.answers import CPU, UNKNOWN
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.basic import When

_NAMES = {"memory": "GPU memory", "use_case": "use case", "task_domain": "kind of task"}
"""Names of inputs in words, where they differ from the field's name."""


def condition(pack: Pack, when: When) -> str:
    """Describe a condition: "tasks: many different; GPU memory: 24 to 80 GB, or unknown"; "otherwise" if empty."""
    return "; ".join(f"{name(key)}: {_either(pack, key, values)}" for key, values in when.items()) or "otherwise"


def name(key: str) -> str:
    """Name of an input in words."""
    return _NAMES.get(key, key.replace("_", " "))


def value(pack: Pack, key: str, word: str) -> str:
    """Describe an answer: "80 GB or more", "50 to 100 USD a month", "many different"."""
    if key == "memory":
        return _memory(pack, word)
    bracket = next((item for item in pack.rules.budget if key == "budget" and item.key == word), None)
    if bracket is None:
        return word.replace("_", " ").lower()
    return f"{_span(bracket.low, bracket.high, 'USD')} a month"


def _either(pack: Pack, key: str, values: Iterable[str]) -> str:
    *rest, last = [value(pack, key, word) for word in values]
    return f"{', '.join(rest)} or {last}" if rest else last


def _memory(pack: Pack, word: str) -> str:
    if word == CPU:
        return "none (CPU)"
    found = next((item for item in pack.rules.gate.classes if item.key == word), None)
    return UNKNOWN if found is None else _span(found.low, found.high, "GB")


def _span(low: float, high: float, unit: str) -> str:
    if math.isinf(high):
        return f"{low:g} {unit} or more"
    return f"below {high:g} {unit}" if low == 0 else f"{low:g} to {high:g} {unit}"
