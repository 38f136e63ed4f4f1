# SPDX-License-Identifier: Apache-2.0
"""The discrete answers that rules read. Whatever was not given is "unknown", and stays so."""

from collections.abc import Collection
from typing import Any, NamedTuple

from finetree_api.recommender.v1 import recommender_pb2 as rec

from finetree_recommender.policy.schema.basic_rules import When
from finetree_recommender.policy.schema.rules import Rules

UNKNOWN = "unknown"
CPU = "cpu"


def _words(enum: Any, prefix: str) -> dict[int, str]:
    return {number: name.removeprefix(prefix) if number else UNKNOWN for name, number in enum.items()}


WORD_OF: dict[str, dict[int, str]] = {
    "quality": _words(rec.QualityNeed, "QUALITY_NEED_"),
    "time": _words(rec.TimeNeed, "TIME_NEED_"),
    "tasks": _words(rec.TaskVariety, "TASK_VARIETY_"),
    "use_case": _words(rec.UseCase, "USE_CASE_"),
    "task_kind": _words(rec.TaskKind, "TASK_KIND_"),
    "behavior_change": _words(rec.BehaviorChange, "BEHAVIOR_CHANGE_"),
    "experience": _words(rec.Experience, "EXPERIENCE_"),
}
"""Answers that are enums of the contract, by input and number, without their prefixes."""
PRIORITY_OF = _words(rec.Priority, "PRIORITY_")
"""What can matter, by number."""
SERVING_OF = _words(rec.ServingTarget, "SERVING_TARGET_")
"""What can serve the result, by number."""

ENUM_WORDS = {name: tuple(words.values())[1:] for name, words in WORD_OF.items()}
"""Answers that are enums of the contract, by input, in the contract's order."""
PRIORITY_WORDS = tuple(PRIORITY_OF.values())[1:]
"""What can matter."""
SERVING_WORDS = tuple(SERVING_OF.values())[1:]
"""What can serve the result."""


class Answers(NamedTuple):
    """One answer for each input; a tuple, for it is the key of most of what is kept."""

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

    def changed(self, name: str, answer: str) -> "Answers":
        """The same with another answer; in pieces, for dozens are made for each recommendation."""
        place = _PLACES[name]
        return tuple.__new__(Answers, (*self[:place], answer, *self[place + 1 :]))

    def without(self, names: tuple[str, ...]) -> "Answers":
        """The same, but for the answers under these names, which become unknown."""
        values: list[Any] = list(self)
        for name in names:
            values[_PLACES[name]] = UNKNOWN
        return tuple.__new__(Answers, values)

    def read(self, *names: str) -> tuple[str, ...]:
        """Inputs as "name=value", for the trace."""
        return tuple(f"{name}={self.get(name)}" for name in names)


_PLACES = {name: place for place, name in enumerate(Answers._fields)}
NAMES = tuple(name for name in Answers._fields if name != "priorities")
"""The inputs that have one answer."""


def unread(read: Collection[str]) -> tuple[str, ...]:
    """The inputs of one answer but those that are read: what `Answers.without` is to leave out."""
    return tuple(name for name in NAMES if name not in read)


def vocabulary(rules: Rules) -> dict[str, tuple[str, ...]]:
    """Every answer of every input, in the pack's and the contract's order, without "unknown"."""
    memory = (CPU, *(item.key for item in rules.gate.classes))
    budget = tuple(item.key for item in rules.budget)
    return {"memory": memory, "budget": budget, **ENUM_WORDS, "task_count": tuple(i.key for i in rules.task_counts)}


def matches(when: When, answers: Answers) -> bool:
    """Whether the answers satisfy a condition."""
    for name, allowed in when.items():  # noqa: SIM110 - a generator takes twice the time, and this is asked most often
        if getattr(answers, name) not in allowed:
            return False
    return True
