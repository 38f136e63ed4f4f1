# SPDX-License-Identifier: Apache-2.0
"""Discrete answers that rules read; "unknown" where not given."""

from typing import Any, NamedTuple

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import serving_pb2

from finetree_recommender.rule_pack.schema.basic import When
from finetree_recommender.rule_pack.schema.rules import Rules

UNKNOWN = "unknown"
CPU = "cpu"


def _words(enum: Any, prefix: str) -> dict[int, str]:
    return {number: name.removeprefix(prefix) if number else UNKNOWN for name, number in enum.items()}


WORD_OF: dict[str, dict[int, str]] = {
    "quality": _words(recommendation_pb2.QualityNeed, "QUALITY_NEED_"),
    "time": _words(recommendation_pb2.TimeNeed, "TIME_NEED_"),
    "tasks": _words(recommendation_pb2.TaskVariety, "TASK_VARIETY_"),
    "use_case": _words(recommendation_pb2.UseCase, "USE_CASE_"),
    "task_domain": _words(recommendation_pb2.TaskDomain, "TASK_DOMAIN_"),
    "behavior_change": _words(recommendation_pb2.BehaviorChange, "BEHAVIOR_CHANGE_"),
    "experience": _words(recommendation_pb2.Experience, "EXPERIENCE_"),
}
"""Answers that are enums of the contract, by input and number, without their prefixes."""
PRIORITY_OF = _words(recommendation_pb2.Priority, "PRIORITY_")
"""Priorities by number."""
SERVING_OF = _words(serving_pb2.ServingTarget, "SERVING_TARGET_")
"""Serving targets by number."""

ENUM_WORDS = {name: tuple(words.values())[1:] for name, words in WORD_OF.items()}
"""Answers that are enums of the contract, by input, in the contract's order."""
PRIORITY_WORDS = tuple(PRIORITY_OF.values())[1:]
"""Priorities."""
SERVING_WORDS = tuple(SERVING_OF.values())[1:]
"""Serving targets."""


class Answers(NamedTuple):
    """One answer for each input."""

    memory: str = UNKNOWN
    budget: str = UNKNOWN
    quality: str = UNKNOWN
    time: str = UNKNOWN
    tasks: str = UNKNOWN
    use_case: str = UNKNOWN
    task_domain: str = UNKNOWN
    behavior_change: str = UNKNOWN
    experience: str = UNKNOWN
    task_count: str = UNKNOWN
    data: str = UNKNOWN
    priorities: tuple[str, ...] = ()
    """Priorities, most important first; only tie-breaks read them."""

    def get(self, name: str) -> str:
        """Answer of the named input."""
        value: str = getattr(self, name)
        return value

    def changed(self, name: str, answer: str) -> "Answers":
        """Replace the answer of one input."""
        return self._replace(**{name: answer})  # type: ignore[arg-type]  # priorities are changed by nobody

    def read(self, *names: str) -> tuple[str, ...]:
        """Inputs as "name=value", for the trace."""
        return tuple(f"{name}={self.get(name)}" for name in names)


def vocabulary(rules: Rules) -> dict[str, tuple[str, ...]]:
    """Every answer of every input, in the pack's and the contract's order, without "unknown"."""
    memory = (CPU, *(item.key for item in rules.gate.classes))
    budget = tuple(item.key for item in rules.budget)
    counts, data = (tuple(item.key for item in brackets) for brackets in (rules.task_counts, rules.data_sizes))
    return {"memory": memory, "budget": budget, **ENUM_WORDS, "task_count": counts, "data": data}


def matches(when: When, answers: Answers) -> bool:
    """Whether the answers satisfy a condition."""
    return all(answers.get(name) in allowed for name, allowed in when.items())
