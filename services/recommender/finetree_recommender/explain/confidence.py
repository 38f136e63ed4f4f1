# SPDX-License-Identifier: Apache-2.0
"""How sure a verdict is: points for what is unknown, close, warned of, broken or overruled, by the pack's weights."""

from dataclasses import dataclass
from enum import StrEnum

from finetree_recommender.decision.pipeline import Decision
from finetree_recommender.decision.situation import Situation
from finetree_recommender.estimator.values import FitState
from finetree_recommender.explain.counterfactuals import Neighbourhood
from finetree_recommender.explain.reasons import warnings
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.basic import Number


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
    score: float
    """1 without any doubt, 0 from as many points on as the pack says."""
    definition: str
    robustness: float
    abstained: bool
    """Whether the verdict is only a default."""


def judge(situation: Situation, neighbours: Neighbourhood, *, parameters: int | None, unmet: int) -> Confidence:
    """Judge a decision; `unmet` counts the limits that it breaks, `parameters` are those of the base model."""
    pack, decision = situation.pack, situation.decision
    weights = pack.rules.confidence
    outside = _outside(pack, parameters)
    found = [*_points(situation, unmet), (weights.out_of_domain, outside, "models outside of the domain")]
    points = sum(number.value * count for number, count, _ in found)
    factors = [f"{count} {words}" for _, count, words in found if count]
    factors.append(f"{neighbours.kept} of {neighbours.tried} single changes of input keep the verdict")
    foreign = situation.inputs.device.unsupported
    if foreign:
        factors.append(f"{foreign} is not supported yet: the answer is that for another GPU of its memory")
    abstained = bool(outside or foreign) or _nothing_known(decision) or _fit_unknown(decision)
    level = Level.MEDIUM
    if decision.method is None or abstained or points > weights.medium_up_to.value:
        level = Level.LOW
    elif points <= weights.high_up_to.value:
        level = Level.HIGH
    score = round(max(0.0, 1 - points / weights.score_zero_at.value), 4)
    return Confidence(
        level=level,
        factors=tuple(factors),
        score=score,
        definition=_definition(pack),
        robustness=neighbours.robustness,
        abstained=abstained,
    )


def _points(situation: Situation, unmet: int) -> list[tuple[Number, int, str]]:
    pack, evidence, decision = situation.pack, situation.evidence, situation.decision
    weights, method = pack.rules.confidence, decision.method
    warned = warnings(pack, situation.answers, method, evidence=evidence) if method is not None else ()
    unpriced = evidence is None or decision.fit.state is FitState.UNKNOWN
    return [
        (weights.unknown_question, decision.choice.ballot.unanswered, "questions without an answer"),
        (weights.tie, int(decision.choice.tied), "tied votes"),
        (weights.caution, len(warned), "cautions against the verdict"),
        (weights.overruled, int(bool(decision.verdict.overruled_rule_id)), "rules overruled"),
        (weights.no_estimate, int(unpriced), "missing estimates"),
        (weights.tight, int(decision.fit.state is FitState.TIGHT), "tight memory"),
        (weights.unmet, unmet, "wishes that are not met"),
    ]


def _outside(pack: Pack, parameters: int | None) -> int:
    """1 where the base model is smaller or larger than any that the rules know something of."""
    domain = pack.rules.domain
    return int(parameters is not None and not domain.low <= parameters <= domain.high)


def _nothing_known(decision: Decision) -> bool:
    """Whether no question was answered, nor anything else that leads to a method."""
    choice = decision.choice
    return choice.ballot.unanswered == choice.ballot.asked and choice.rule_id == choice.default_rule_id


def _fit_unknown(decision: Decision) -> bool:
    """Whether nobody knows if anything trains here."""
    return decision.method is None and decision.fit.state is FitState.UNKNOWN


def _definition(pack: Pack) -> str:
    weights = pack.rules.confidence
    counted = (
        (weights.unknown_question, "a question without an answer"),
        (weights.tie, "tied votes"),
        (weights.caution, "a caution against the verdict"),
        (weights.overruled, "a rule overruled"),
        (weights.no_estimate, "a missing estimate"),
        (weights.tight, "tight memory"),
        (weights.unmet, "a wish not met"),
        (weights.out_of_domain, "a model outside of the domain"),
    )
    words = ", ".join(f"{number.value:g} for {text}" for number, text in counted)
    return (
        f"1 - points / {weights.score_zero_at.value:g}, not below 0; points: {words}; high up to "
        f"{weights.high_up_to.value:g} points, medium up to {weights.medium_up_to.value:g}"
    )
