# SPDX-License-Identifier: Apache-2.0
"""Rules on budgets, durations, servers, priorities, quality, and capabilities of GPUs."""

from dataclasses import dataclass
from enum import StrEnum

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.schema.basic import Cited, Number


@dataclass(frozen=True, slots=True)
class Bracket:
    """A range of numbers; `low` is outside when `above`, `high` is inside when `through`.

    `implies` is the answer that a number in it gives to a question that was not answered; empty for none.
    """

    id: str
    key: str
    low: float
    high: float
    source: str
    above: bool = False
    through: bool = False
    implies: str = ""
    unit: str = "USD a month"

    def holds(self, number: float) -> bool:
        """Whether a number lies in the bracket."""
        from_low = number > self.low if self.above else number >= self.low
        return from_low and (number <= self.high if self.through else number < self.high)


@dataclass(frozen=True, slots=True)
class TieBreak:
    """Order of tied methods for an answer, by tiers.

    `input` is "priorities" or an input of the rules.
    """

    id: str
    input: str
    value: str
    tiers: tuple[tuple[Method, ...], ...]
    source: str

    def rank(self, method: Method) -> int:
        """Tier of a method, 0 first."""
        return next(index for index, tier in enumerate(self.tiers) if method in tier)


@dataclass(frozen=True, slots=True)
class ServingRule:
    """Whether a server loads the results of some methods; `note` says how."""

    id: str
    target: str
    methods: tuple[Method, ...]
    served: bool
    note: str
    source: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Lowest CUDA compute capability for a 4-bit base, an 8-bit base, and bfloat16."""

    nf4: Number
    int8: Number
    bf16: Number


@dataclass(frozen=True, slots=True)
class LimitRules:
    """Limits that are compared with the figures of a method: duration and budget of a run.

    With `nearest`, what is taken in place of a method over a limit goes by quality: the best within the limits, at most
    as good as what the rules prefer, and where none is within, what comes nearest. Without it, by the rules' order.
    """

    max_duration: Cited
    budget: Cited
    nearest: Cited | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """Sizes of the base model that the rules cover, in parameters; outside of them they abstain."""

    id: str
    low: float
    high: float
    source: str


@dataclass(frozen=True, slots=True)
class QualityPrior:
    """Expected quality of a method in percent of well-tuned full fine-tuning, by task domain.

    No `task_domains` means a task of unknown kind. With `data` it is of data of that size alone, and goes before those
    that are of any. `studies` counts the comparisons behind it.
    """

    id: str
    method: Method
    low: float
    expected: float
    high: float
    studies: int
    source: str
    task_domains: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    note: str = ""


class FloorEnd(StrEnum):
    """End of an interval that must reach a floor."""

    LOW = "low"
    EXPECTED = "expected"


@dataclass(frozen=True, slots=True)
class QualityFloor:
    """Quality that a need asks of a prior, percent; `by` says which end of the interval must reach it."""

    id: str
    need: str
    percent: float
    by: FloorEnd
    source: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """Smallest memory, GB, that is reported for training a model of so many parameters by a method."""

    id: str
    method: Method
    parameters: float
    gb: float
    source: str
