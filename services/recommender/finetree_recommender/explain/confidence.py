# SPDX-License-Identifier: Apache-2.0
"""Confidence in a verdict: points for unanswered questions, ties, cautions and the like, by the pack's weights."""

from dataclasses import dataclass
from enum import StrEnum

from finetree_recommender.decision.pipeline import Decision
from finetree_recommender.decision.situation import Situation
from finetree_recommender.estimator.values import FitState
from finetree_recommender.explain.counterfactuals import Neighborhood
from finetree_recommender.explain.reasons import warnings
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.basic import Number
from finetree_recommender.trace import Caution


class Level(StrEnum):
    """Level of confidence."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


@dataclass(frozen=True, slots=True)
class Factor:
    """What raised or lowered the confidence, with a stable code."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Confidence:
    """The level and what raised or lowered it."""

    level: Level
    factors: tuple[Factor, ...]
    score: float
    """From 1, without any doubt, down to 0 at the points that the pack names."""
    definition: str
    robustness: float
    abstained: bool
    """Whether the verdict is only a default."""


def judge(
    situation: Situation,
    neighbors: Neighborhood,
    *,
    parameters: int | None,
    unmet: int,
    cautions: tuple[Caution, ...] = (),
) -> Confidence:
    """Judge a decision.

    `unmet` counts the limits that it breaks, `parameters` are those of the base model, `cautions` those of the answer.
    """
    pack, decision = situation.pack, situation.decision
    weights = pack.rules.confidence
    outside = _outside(pack, parameters)
    doubts = [
        *_doubts(situation, unmet),
        _Doubt("MODEL_OUT_OF_DOMAIN", weights.out_of_domain, outside, _OUTSIDE),
        *_cautioned(pack, cautions),
    ]
    points = sum(doubt.weight.value * doubt.count for doubt in doubts)
    factors = [Factor(doubt.code, doubt.message) for doubt in doubts if doubt.count]
    kept = f"{neighbors.kept} of {neighbors.tried} single changes of input keep the verdict"
    factors.append(Factor("CHANGES_KEEP_VERDICT", kept))
    foreign = situation.inputs.device.unsupported
    if foreign:
        text = f"{foreign} is not supported yet: the answer is for another GPU with its memory"
        factors.append(Factor("ACCELERATOR_NOT_SUPPORTED", text))
    abstained = bool(outside or foreign) or _nothing_known(decision) or _fit_unknown(decision)
    level = Level.MEDIUM
    if decision.method is None or abstained or points > weights.medium_up_to.value:
        level = Level.LOW
    elif points <= weights.high_up_to.value and not any(caution.code == "DATASET_UNKNOWN" for caution in cautions):
        level = Level.HIGH
    return Confidence(
        level=level,
        factors=tuple(factors),
        score=round(max(0.0, 1 - points / weights.score_zero_at.value), 4),
        definition=_definition(pack),
        robustness=neighbors.robustness,
        abstained=abstained,
    )


_OUTSIDE = "a model size that the rules do not cover"
_IMPLAUSIBLE = "number that is taken for a mistake"


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Something that lowers confidence: how often it applies, and the points for each time."""

    code: str
    weight: Number
    count: int
    words: str
    """What it is, in the singular where it is counted."""
    counted: bool = False

    @property
    def message(self) -> str:
        """Words of the factor, with the count where it is counted."""
        return f"{self.count} {self.words}{'s' if self.count > 1 else ''}" if self.counted else self.words


def _doubts(situation: Situation, unmet: int) -> list[_Doubt]:
    pack, evidence, decision = situation.pack, situation.evidence, situation.decision
    weights, method = pack.rules.confidence, decision.method
    warned = warnings(pack, situation.answers, method, evidence=evidence) if method is not None else ()
    missing = evidence is None or decision.fit.state is FitState.UNKNOWN
    unanswered, overruled = decision.choice.ballot.unanswered, bool(decision.verdict.overruled_rule_id)
    tight = decision.fit.state is FitState.TIGHT
    return [
        _Doubt("QUESTIONS_UNANSWERED", weights.unknown_question, unanswered, "unanswered question", counted=True),
        _Doubt("VOTES_TIED", weights.tie, int(decision.choice.tied), "tied votes"),
        _Doubt("CAUTIONS_APPLY", weights.caution, len(warned), "caution", counted=True),
        _Doubt("RULE_OVERRULED", weights.overruled, int(overruled), "an overruled rule"),
        _Doubt("NOT_ESTIMATED", weights.no_estimate, int(missing), "a missing estimate"),
        _Doubt("MEMORY_TIGHT", weights.tight, int(tight), "a memory estimate that may not fit"),
        _Doubt("LIMITS_UNMET", weights.unmet, unmet, "broken limit", counted=True),
    ]


def _cautioned(pack: Pack, cautions: tuple[Caution, ...]) -> list[_Doubt]:
    """Doubts about the inputs and the recipe, which a caution of the same code explains."""
    weights, codes = pack.rules.confidence, [caution.code for caution in cautions]
    return [
        _Doubt("IMPLAUSIBLE_INPUT", weights.implausible, codes.count("IMPLAUSIBLE_INPUT"), _IMPLAUSIBLE, counted=True),
        _Doubt("DATASET_UNKNOWN", weights.data_unknown, codes.count("DATASET_UNKNOWN"), "unknown data"),
        _Doubt("LENGTHS_UNKNOWN", weights.data_unknown, codes.count("LENGTHS_UNKNOWN"), "unknown lengths of the rows"),
        _Doubt("FEW_EXAMPLES", weights.few_rows, codes.count("FEW_EXAMPLES"), "few rows of data"),
        _Doubt("ROWS_CUT", weights.rows_cut, codes.count("ROWS_CUT"), "truncated rows"),
        _Doubt("BF16_ROUNDING", weights.rounding, codes.count("BF16_ROUNDING"), "updates that rounding loses"),
    ]


def _outside(pack: Pack, parameters: int | None) -> int:
    """1 where the base model is smaller or larger than those that the rules cover, else 0."""
    domain = pack.rules.domain
    return int(parameters is not None and not domain.low <= parameters <= domain.high)


def _nothing_known(decision: Decision) -> bool:
    """Whether no question was answered, nor anything else that leads to a method."""
    choice = decision.choice
    return choice.ballot.unanswered == choice.ballot.asked and choice.rule_id == choice.default_rule_id


def _fit_unknown(decision: Decision) -> bool:
    """Whether it is unknown which methods fit."""
    return decision.method is None and decision.fit.state is FitState.UNKNOWN


def _definition(pack: Pack) -> str:
    weights = pack.rules.confidence
    counted = (
        (weights.unknown_question, "an unanswered question"),
        (weights.tie, "tied votes"),
        (weights.caution, "a caution against the verdict"),
        (weights.overruled, "a rule overruled"),
        (weights.no_estimate, "a missing estimate"),
        (weights.tight, "a memory estimate that may not fit"),
        (weights.unmet, "a limit not kept"),
        (weights.out_of_domain, "a model size that the rules do not cover"),
        (weights.implausible, "a number that is taken for a mistake"),
        (weights.data_unknown, "unknown data or lengths of rows"),
        (weights.few_rows, "few rows"),
        (weights.rows_cut, "truncated rows"),
        (weights.rounding, "updates that rounding loses"),
    )
    words = ", ".join(f"{number.value:g} for {text}" for number, text in counted)
    return (
        f"1 - points / {weights.score_zero_at.value:g}, at least 0; points: {words}; high at "
        f"{weights.high_up_to.value:g} or fewer where the data are known, "
        f"medium at {weights.medium_up_to.value:g} or fewer"
    )
