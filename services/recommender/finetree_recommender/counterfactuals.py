# SPDX-License-Identifier: Apache-2.0
"""Which single change of an input changes the verdict: found by trying every one through the same pipeline."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from finetree_recommender import thresholds
from finetree_recommender.answers import UNKNOWN, vocabulary
from finetree_recommender.gate import memory_words
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.pipeline import Decision, Verdict, alike
from finetree_recommender.situation import Situation

FIELDS = {
    "memory": "hardware",
    "budget": "budget_usd_month",
    "quality": "quality",
    "time": "time",
    "tasks": "tasks",
    "use_case": "use_case",
    "experience": "experience",
}
"""Fields of the request by the input that the rules read, in the order of the questions."""
SCALES = ("memory", "budget", "quality", "time", "tasks", "experience")
"""Inputs whose answers have an order, so that only the next one is one step away."""

_PLACES = {path: place for place, path in enumerate(FIELDS.values())}
_SUFFIX = f" {thresholds.NOT_PRICED}"


class Counterfactual(NamedTuple):
    """A change of one input and the method that it leads to; None when nothing would train."""

    field_path: str
    from_value: str
    to_value: str
    method: Method | None
    rule_id: str
    threshold: float | None = None
    unit: str = ""


class Gap(NamedTuple):
    """An unknown input whose answer could change the verdict."""

    field_path: str
    share: float
    """Share of its answers that would."""
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """All single changes."""

    flips: tuple[Counterfactual, ...]
    """The nearest change of each input to each other method."""
    kept: int
    """Changes that keep the verdict."""
    tried: int
    gaps: tuple[Gap, ...]
    """Unknown inputs that matter, the one that matters most first."""
    robustness: float
    """Share of the changes to a neighbouring answer that keep the verdict."""


class _Trial(NamedTuple):
    """A change of one answer, and the verdict that it leads to."""

    name: str
    value: str
    near: bool
    """Whether the change goes to the next answer of a scale, or the input has none."""
    verdict: Verdict


def explore(situation: Situation, decision: Decision) -> Neighbourhood:
    """Try every single change of a discrete input, and find where along a number the verdict changes.

    Estimates hold for the hardware that was asked about; for other hardware the pack's own words count.
    """
    trials = list(_trials(situation))
    method = decision.method
    near = [trial.verdict.method is method for trial in trials if trial.near]
    return Neighbourhood(
        flips=tuple(sorted((*_flips(situation, trials, method), *_numeric(situation, method)), key=_place)),
        kept=sum(trial.verdict.method is method for trial in trials),
        tried=len(trials),
        gaps=_gaps(situation, trials, method),
        robustness=round(sum(near) / len(near), 4) if near else 1.0,
    )


def _trials(situation: Situation) -> Iterator[_Trial]:
    """Other answers of each input, nearest first."""
    pack, gist, judge = situation.pack, situation.gist, situation.judge()
    present = judge(gist)
    for name in FIELDS:
        now = gist.get(name)
        known: dict[str, Verdict] = {} if name == "memory" else {now: present}
        for value, near in _others(pack, name, situation.answers.get(name)):
            word = alike(pack, gist, name, value)
            found = known.get(word)
            if found is None:
                there = name == "memory"
                found = situation.elsewhere(word) if there else judge(gist.changed(name, word))
                known[word] = found
            yield _Trial(name, value, near, found)


@lru_cache(maxsize=1024)
def _others(pack: Pack, name: str, now: str) -> tuple[tuple[str, bool], ...]:
    """Other answers of an input, nearest first, and whether each is near."""
    scale = vocabulary(pack.rules)[name]
    free = now == UNKNOWN or name not in SCALES
    return tuple(
        (value, free or abs(scale.index(value) - scale.index(now)) == 1) for value in _nearest_first(scale, now)
    )


def _nearest_first(scale: tuple[str, ...], now: str) -> list[str]:
    """Other answers of a scale, nearest first; from "unknown" in the scale's own order."""
    place = scale.index(now) if now != UNKNOWN else 0
    return sorted((value for value in scale if value != now), key=lambda value: abs(scale.index(value) - place))


def _flips(situation: Situation, trials: list[_Trial], method: Method | None) -> Iterator[Counterfactual]:
    # Those that come from a number are told with its exact threshold instead.
    seen = {(name, other) for name in thresholds.measured(situation) for other in Method}
    for trial in trials:
        found = trial.verdict.method
        if found is None or found is method or (trial.name, found) in seen:
            continue
        seen.add((trial.name, found))
        yield Counterfactual(
            field_path=FIELDS[trial.name],
            from_value=_words(situation.pack, trial.name, situation.answers.get(trial.name)).removesuffix(_SUFFIX),
            to_value=_words(situation.pack, trial.name, trial.value),
            method=found,
            rule_id=trial.verdict.rule_id,
        )


def _numeric(situation: Situation, method: Method | None) -> Iterator[Counterfactual]:
    for number in thresholds.numbers(situation):
        for found in thresholds.search(number, method):
            yield Counterfactual(
                field_path=number.field_path,
                from_value=number.words(number.now),
                to_value=number.words(found.value),
                method=found.verdict.method,
                rule_id=found.verdict.rule_id,
                threshold=found.value,
                unit=number.unit,
            )


def _place(flip: Counterfactual) -> int:
    """Place of an input in the order of the questions, the others after them."""
    return _PLACES.get(flip.field_path, len(_PLACES))


def _gaps(situation: Situation, trials: list[_Trial], method: Method | None) -> tuple[Gap, ...]:
    gaps = []
    for name, path in FIELDS.items():
        if situation.answers.get(name) != UNKNOWN:
            continue
        ours = [trial.verdict.method for trial in trials if trial.name == name]
        others = [found for found in ours if found is not method]
        if others:
            # A machine on which nothing trains changes the verdict, and leads to no method.
            methods = tuple(item for item in dict.fromkeys(others) if item is not None)
            gaps.append(Gap(path, len(others) / len(ours), methods))
    return tuple(sorted(gaps, key=lambda gap: -gap.share))


@lru_cache(maxsize=1024)
def _words(pack: Pack, name: str, value: str) -> str:
    if value == UNKNOWN:
        return UNKNOWN
    if name == "memory":
        return f"{memory_words(pack, value)} {thresholds.NOT_PRICED}"
    if name != "budget":
        return value.lower()
    bracket = next(item for item in pack.rules.budget if item.key == value)
    return thresholds.bracket_words(bracket)
