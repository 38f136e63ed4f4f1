# SPDX-License-Identifier: Apache-2.0
"""Single changes of an input that change the verdict: each is tried in the same pipeline."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetree_recommender.decision.hardware_gate import memory_words
from finetree_recommender.decision.pipeline import Verdict
from finetree_recommender.decision.situation import Situation
from finetree_recommender.explain import thresholds
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import UNKNOWN, vocabulary
from finetree_recommender.rule_pack.pack import Pack

MEMORY = "memory"
"""Input that stands for the hardware."""
FIELDS = {
    MEMORY: "hardware",
    "budget": "budget_per_month",
    "quality": "quality",
    "time": "time",
    "tasks": "tasks",
    "use_case": "use_case",
    "experience": "experience",
}
"""Fields of the request by the input that the rules read, in the order of the questions."""
SCALES = (MEMORY, "budget", "quality", "time", "tasks", "experience")
"""Inputs whose answers have an order, so that only the next one is one step away."""
_SUFFIX = f" {thresholds.NOT_ESTIMATED}"


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """A change of one input and the method that it leads to."""

    field_path: str
    from_value: str
    to_value: str
    method: Method | None
    """None when no method would fit."""
    rule_id: str
    threshold: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """An unknown input whose answer could change the verdict."""

    field_path: str
    share: float
    """Share of its answers that would."""
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True)
class Neighborhood:
    """Verdicts of all single changes."""

    flips: tuple[Counterfactual, ...]
    """The nearest change of each input to each other method."""
    kept: int
    """Changes that keep the verdict."""
    tried: int
    gaps: tuple[Gap, ...]
    """Unknown inputs that matter, the one that matters most first."""
    robustness: float
    """Share of the changes to a neighboring answer that keep the verdict."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """A change of one answer, and the verdict that it leads to."""

    name: str
    value: str
    near: bool
    """Whether it is the next answer on a scale, or the input has no scale or no answer."""
    verdict: Verdict


def explore(situation: Situation) -> Neighborhood:
    """Try every single change of a discrete input, and find where along a number the verdict changes.

    Estimates are for the request's hardware; for other hardware the pack's rules decide alone.
    """
    method = situation.decision.method
    trials = {name: list(_trials(situation, name)) for name in FIELDS}
    every = [trial for found in trials.values() for trial in found]
    flips = [trial for trial in every if trial.verdict.method is not method]
    near = [trial for trial in every if trial.near]
    steady = sum(trial.verdict.method is method for trial in near)
    changes = (*_answer_changes(situation, flips), *_number_changes(situation, method))
    places = list(FIELDS.values())
    gaps = [
        gap
        for name, found in trials.items()
        if situation.answers.get(name) == UNKNOWN and (gap := _gap(name, found, method)) is not None
    ]
    return Neighborhood(
        # Inputs in the order of the questions, the others after them.
        flips=tuple(
            sorted(changes, key=lambda f: places.index(f.field_path) if f.field_path in places else len(places))
        ),
        kept=len(every) - len(flips),
        tried=len(every),
        gaps=tuple(sorted(gaps, key=lambda gap: -gap.share)),
        robustness=round(steady / len(near), 4) if near else 1.0,
    )


def _trials(situation: Situation, name: str) -> Iterator[_Trial]:
    """Every other answer of an input, nearest first; from "unknown" in the scale's own order."""
    scale, now = vocabulary(situation.pack.rules)[name], situation.answers.get(name)
    start = scale.index(now) if now != UNKNOWN else 0
    for value in sorted(scale, key=lambda word: abs(scale.index(word) - start)):
        if value == now:
            continue
        near = now == UNKNOWN or name not in SCALES or abs(scale.index(value) - start) == 1
        if name == MEMORY:
            found = situation.elsewhere(value)
        else:
            found = situation.verdict(situation.answers.changed(name, value))
        yield _Trial(name, value, near, found)


def _gap(name: str, trials: list[_Trial], method: Method | None) -> Gap | None:
    """How many answers of an unknown input change the verdict, and to which methods; None where none does."""
    flips = [trial.verdict.method for trial in trials if trial.verdict.method is not method]
    # A machine on which nothing fits changes the verdict, and leads to no method.
    methods = tuple(dict.fromkeys(found for found in flips if found is not None))
    return Gap(FIELDS[name], len(flips) / len(trials), methods) if flips else None


def _answer_changes(situation: Situation, flips: list[_Trial]) -> Iterator[Counterfactual]:
    """Of each input the nearest answer that leads to each other method."""
    # Changes of a number are given with its exact threshold instead.
    measured, seen = thresholds.measured(situation), set[tuple[str, Method]]()
    for trial in flips:
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


def _number_changes(situation: Situation, method: Method | None) -> Iterator[Counterfactual]:
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


def _words(pack: Pack, name: str, value: str) -> str:
    if value == UNKNOWN:
        return UNKNOWN
    if name == MEMORY:
        return f"{memory_words(pack, value)} {thresholds.NOT_ESTIMATED}"
    if name != "budget":
        return value.lower().replace("_", " ")
    bracket = next(item for item in pack.rules.budget if item.key == value)
    return thresholds.bracket_words(bracket)
