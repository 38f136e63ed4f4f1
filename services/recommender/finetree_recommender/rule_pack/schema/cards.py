# SPDX-License-Identifier: Apache-2.0
"""Method cards."""

from dataclasses import dataclass
from enum import StrEnum

from finetree_recommender.method import Method


class Efficiency(StrEnum):
    """How a method trades quality for resources; the values are the contract's names."""

    LOW = "LOW"
    BALANCED = "BALANCED"
    HIGH = "HIGH"
    VERY_HIGH = "VERY_HIGH"


@dataclass(frozen=True, slots=True)
class CardNumber:
    """A number of a method card."""

    value: float
    source: str
    warning: bool = False
    """Whether the source shows a warning in place of the number."""


@dataclass(frozen=True, slots=True)
class CardFlag:
    """A yes or no of a method card."""

    value: bool
    source: str


@dataclass(frozen=True, slots=True)
class CardText:
    """Short text of a method card."""

    value: str
    source: str


@dataclass(frozen=True, slots=True)
class CardInterval:
    """An interval of a method card."""

    low: float
    expected: float
    high: float
    source: str


@dataclass(frozen=True, slots=True)
class CardEfficiency:
    """Efficiency level of a method and its words."""

    level: Efficiency
    label: str
    source: str


@dataclass(frozen=True, slots=True)
class CardBadge:
    """A short label and what it means."""

    label: str
    tooltip: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure in words and, where it is a number, as an interval; `name` is one of the pack's kinds of figures."""

    name: str
    text: str
    source: str
    low: float | None = None
    expected: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Guide:
    """Advice on a parameter; `choices` names a guide of the pack's content."""

    field_path: str
    default_value: str
    help: str
    choices: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """Card of a method."""

    method: Method
    title: str
    description: str
    tooltip: str
    best_for: CardText
    when_to_use: tuple[str, ...]
    when_not_to_use: tuple[str, ...]
    badges: tuple[CardBadge, ...]
    stars: CardNumber
    efficiency: CardEfficiency
    minimum_gpu_gb: CardNumber
    quality_percent: CardInterval
    mergeable: CardFlag
    figures: tuple[Figure, ...]
    parameters: tuple[Guide, ...]

    @property
    def badge_labels(self) -> tuple[str, ...]:
        """Labels of the badges."""
        return tuple(badge.label for badge in self.badges)
