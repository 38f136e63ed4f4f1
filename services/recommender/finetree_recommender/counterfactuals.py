# SPDX-License-Identifier: Apache-2.0
"""Which single change of an input changes the verdict: found by trying every one through the same pipeline."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from finetree_recommender.answers import UNKNOWN, Answers, vocabulary
from finetree_recommender.estimates import Evidence
from finetree_recommender.gate import memory_words
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.pipeline import decide

_FIELDS = {
    "memory": "hardware",
    "budget": "budget_usd_month",
    "quality": "quality",
    "time": "time",
    "tasks": "tasks",
    "use_case": "use_case",
}


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """A change of one input and the method that it leads to."""

    field_path: str
    from_value: str
    to_value: str
    method: Method


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """All single changes."""

    flips: tuple[Counterfactual, ...]
    """The nearest change of each input to each other method."""
    kept: int
    """Changes that keep the verdict."""
    tried: int


def explore(pack: Pack, answers: Answers, evidence: Evidence | None, method: Method | None) -> Neighbourhood:
    """Try every single change of a discrete input.

    Estimates hold for the hardware that was asked about; for other hardware the pack's own words count.
    """
    flips: dict[tuple[str, Method], Counterfactual] = {}
    kept = tried = 0
    for name, value in _changes(pack, answers):
        changed = dataclasses.replace(answers, **{name: value})
        found = decide(pack, changed, None if name == "memory" else evidence).method
        tried += 1
        kept += found is method
        if found is None or found is method:
            continue
        words = Counterfactual(_FIELDS[name], _words(pack, name, answers.get(name)), _words(pack, name, value), found)
        flips.setdefault((name, found), words)
    return Neighbourhood(tuple(flips.values()), kept, tried)


def _changes(pack: Pack, answers: Answers) -> Iterator[tuple[str, str]]:
    """Other answers of each input, nearest first."""
    words = vocabulary(pack.rules)
    for name in _FIELDS:
        yield from ((name, value) for value in _nearest_first(words[name], answers.get(name)))


def _nearest_first(scale: tuple[str, ...], now: str) -> list[str]:
    """Other answers of a scale, nearest first; from "unknown" in the scale's own order."""
    place = scale.index(now) if now != UNKNOWN else 0
    return sorted((value for value in scale if value != now), key=lambda value: abs(scale.index(value) - place))


def _words(pack: Pack, name: str, value: str) -> str:
    if value == UNKNOWN:
        return UNKNOWN
    if name == "memory":
        return memory_words(pack, value)
    if name != "budget":
        return value.lower()
    bracket = next(item for item in pack.rules.budget if item.key == value)
    if math.isinf(bracket.high):
        return f"{bracket.low:g} USD a month or more"
    return f"{bracket.low:g} to {bracket.high:g} USD a month"
