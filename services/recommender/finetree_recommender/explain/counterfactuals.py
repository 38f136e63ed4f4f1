# SPDX-License-Identifier: Apache-2.0
"""Which single change of an input changes the verdict: found by trying every one through the same pipeline."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from finetree_recommender.decision.hardware_gate import memory_words
from finetree_recommender.decision.pipeline import Decision
from finetree_recommender.decision.situation import Situation
from finetree_recommender.decision.stages import Verdict
from finetree_recommender.explain import searching, thresholds
from finetree_recommender.fan import MEMORY, TURNED, turns
from finetree_recommender.method import Method
from finetree_recommender.policy.answers import UNKNOWN
from finetree_recommender.policy.pack import Pack

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


class Neighbourhood(NamedTuple):
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
    """A change of one answer that changes the verdict, and the verdict that it leads to."""

    name: str
    value: str
    verdict: Verdict


def explore(situation: Situation, decision: Decision) -> Neighbourhood:
    """Try every single change of a discrete input, and find where along a number the verdict changes.

    Estimates hold for the hardware that was asked about; for other hardware the pack's own words count.
    """
    method, flips, gaps = decision.method, list[_Trial](), list[Gap]()
    tried = near = near_flips = 0
    turned, known = situation.turns(), situation.gist.memory != UNKNOWN
    away = situation.abroad()
    for name in (MEMORY, *TURNED):
        now, ours = situation.answers.get(name), list[_Trial]()
        found = turns(situation.pack, name, now, memory_known=known)
        for value, close, place in found:
            there = away[value] if name == MEMORY else turned[place]
            near += close
            if there.method is not method:
                near_flips += close
                ours.append(_Trial(name, value, there))
        tried += len(found)
        flips += ours
        if ours and now == UNKNOWN:
            gaps.append(_gap(ours, len(found)))
    return Neighbourhood(
        flips=tuple(sorted((*_flips(situation, flips), *_numeric(situation, method)), key=_place)),
        kept=tried - len(flips),
        tried=tried,
        gaps=tuple(sorted(gaps, key=lambda gap: -gap.share)),
        robustness=round((near - near_flips) / near, 4) if near else 1.0,
    )


def _gap(ours: list[_Trial], tried: int) -> Gap:
    """An unknown input of which so many answers were tried, and these change the verdict."""
    # A machine on which nothing trains changes the verdict, and leads to no method.
    methods = dict.fromkeys(trial.verdict.method for trial in ours)
    return Gap(FIELDS[ours[0].name], len(ours) / tried, tuple(item for item in methods if item is not None))


def _flips(situation: Situation, trials: list[_Trial]) -> Iterator[Counterfactual]:
    # Those that come from a number are told with its exact threshold instead.
    measured, seen = thresholds.measured(situation), set[tuple[str, Method]]()
    for trial in trials:
        found = trial.verdict.method
        if found is None or trial.name in measured or (trial.name, found) in seen:
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
        for found in searching.search(number, method):
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
