# SPDX-License-Identifier: Apache-2.0
"""How sure a verdict is: points for what is unknown, close, warned of or overruled, by the pack's weights."""

from dataclasses import dataclass
from enum import StrEnum

from finetree_recommender.counterfactuals import Neighbourhood
from finetree_recommender.estimates import Evidence, FitState
from finetree_recommender.pack import Pack
from finetree_recommender.pipeline import Decision
from finetree_recommender.rules import Number


class Level(StrEnum):
    """Levels of confidence."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


@dataclass(frozen=True, slots=True)
class Confidence:
    """The level and what raised or lowered it."""

    level: Level
    factors: tuple[str, ...]


def judge(
    pack: Pack, decision: Decision, evidence: Evidence | None, warnings: int, neighbours: Neighbourhood
) -> Confidence:
    """Judge a decision; `warnings` counts the pack's cautions that apply to the verdict."""
    weights = pack.rules.confidence
    found: list[tuple[Number, int, str]] = [
        (weights.unknown_question, decision.choice.ballot.unanswered, "questions without an answer"),
        (weights.tie, int(decision.choice.tied), "tied votes"),
        (weights.caution, warnings, "cautions against the verdict"),
        (weights.overruled, int(bool(decision.overruled_rule_id)), "rules overruled by the estimate"),
        (weights.no_estimate, int(evidence is None or decision.settled.state is FitState.UNKNOWN), "missing estimates"),
        (weights.tight, int(decision.settled.state is FitState.TIGHT), "tight memory"),
    ]
    points = sum(number.value * count for number, count, _ in found)
    factors = [f"{count} {words}" for _, count, words in found if count]
    factors.append(f"{neighbours.kept} of {neighbours.tried} single changes of input keep the verdict")
    if decision.method is None or points > weights.medium_up_to.value:
        return Confidence(Level.LOW, tuple(factors))
    level = Level.HIGH if points <= weights.high_up_to.value else Level.MEDIUM
    return Confidence(level, tuple(factors))
