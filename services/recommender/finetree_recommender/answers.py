# SPDX-License-Identifier: Apache-2.0
"""The discrete answers that rules read. Whatever was not given is "unknown", and stays so."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from finetree_api.recommender.v1 import recommender_pb2 as rec

from finetree_recommender.basic_rules import When
from finetree_recommender.rules import Rules

UNKNOWN = "unknown"
CPU = "cpu"


def _words(enum: Any, prefix: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(prefix) for name, number in enum.items() if number)


ENUM_WORDS: dict[str, tuple[str, ...]] = {
    "quality": _words(rec.QualityNeed, "QUALITY_NEED_"),
    "time": _words(rec.TimeNeed, "TIME_NEED_"),
    "tasks": _words(rec.TaskVariety, "TASK_VARIETY_"),
    "use_case": _words(rec.UseCase, "USE_CASE_"),
    "task_kind": _words(rec.TaskKind, "TASK_KIND_"),
    "behavior_change": _words(rec.BehaviorChange, "BEHAVIOR_CHANGE_"),
    "experience": _words(rec.Experience, "EXPERIENCE_"),
}
"""Answers that are enums of the contract, by input, in the contract's order and without their prefixes."""

PRIORITY_WORDS = _words(rec.Priority, "PRIORITY_")
"""What can matter."""
SERVING_WORDS = _words(rec.ServingTarget, "SERVING_TARGET_")
"""What can serve the result."""


@dataclass(frozen=True, slots=True)
class Answers:
    """One answer for each input."""

    memory: str = UNKNOWN
    budget: str = UNKNOWN
    quality: str = UNKNOWN
    time: str = UNKNOWN
    tasks: str = UNKNOWN
    use_case: str = UNKNOWN
    task_kind: str = UNKNOWN
    behavior_change: str = UNKNOWN
    experience: str = UNKNOWN
    task_count: str = UNKNOWN
    priorities: tuple[str, ...] = ()
    """What matters, most important first. Rules read it in tie-breaks alone."""

    def get(self, name: str) -> str:
        """Answer of the named input."""
        value: str = getattr(self, name)
        return value

    def changed(self, **answers: str) -> "Answers":
        """The same with other answers."""
        return dataclasses.replace(self, **answers)  # type: ignore[arg-type]  # priorities are no answer

    def only(self, names: frozenset[str]) -> "Answers":
        """The same, but for answers under other names, which become unknown."""
        rest = {name: UNKNOWN for name in _NAMES if name not in names and self.get(name) != UNKNOWN}
        return self.changed(**rest) if rest else self

    def read(self, *names: str) -> tuple[str, ...]:
        """Inputs as "name=value", for the trace."""
        return tuple(f"{name}={self.get(name)}" for name in names)


_NAMES = tuple(item.name for item in dataclasses.fields(Answers) if item.name != "priorities")


def vocabulary(rules: Rules) -> dict[str, tuple[str, ...]]:
    """Every answer of every input, in the pack's and the contract's order, without "unknown"."""
    memory = (CPU, *(item.key for item in rules.gate.classes))
    budget = tuple(item.key for item in rules.budget)
    return {"memory": memory, "budget": budget, **ENUM_WORDS, "task_count": tuple(i.key for i in rules.task_counts)}


def matches(when: When, answers: Answers) -> bool:
    """Whether the answers satisfy a condition."""
    return all(answers.get(name) in allowed for name, allowed in when.items())
