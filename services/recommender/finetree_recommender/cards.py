# SPDX-License-Identifier: Apache-2.0
"""The shape of a method card."""

from dataclasses import dataclass

from finetree_recommender.methods import Method


@dataclass(frozen=True, slots=True)
class CardNumber:
    """A number of a method card."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class CardFlag:
    """A yes or no of a method card."""

    value: bool
    source: str


@dataclass(frozen=True, slots=True)
class CardInterval:
    """An interval of a method card."""

    low: float
    expected: float
    high: float
    source: str


@dataclass(frozen=True, slots=True)
class Guide:
    """Advice on a parameter."""

    field_path: str
    default_value: str
    help: str


@dataclass(frozen=True, slots=True)
class Card:
    """What a person should know of a method."""

    method: Method
    title: str
    description: str
    when_to_use: tuple[str, ...]
    when_not_to_use: tuple[str, ...]
    badges: tuple[str, ...]
    stars: CardNumber
    minimum_gpu_gb: CardNumber
    quality_percent: CardInterval
    mergeable: CardFlag
    parameters: tuple[Guide, ...]
