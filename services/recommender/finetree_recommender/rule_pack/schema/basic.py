# SPDX-License-Identifier: Apache-2.0
"""What rules of every kind are made of: sources, numbers with a source, conditions.

`source` is a key of the pack's sources with a place inside it ("playbook L264"); `Pack.provenance` resolves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from finetree_recommender.method import Method

When = Mapping[str, tuple[str, ...]]
"""A condition: for each named input, the answers that satisfy it. All named inputs must agree; empty is always true."""


class SourceKind(StrEnum):
    """What a number rests on; the values are the contract's names."""

    MEASURED = "MEASURED"
    PUBLISHED = "PUBLISHED"
    PLAYBOOK = "PLAYBOOK"
    COMPUTED = "COMPUTED"


@dataclass(frozen=True, slots=True)
class Source:
    """A work that numbers are taken from."""

    kind: SourceKind
    source: str
    date: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What was decided where the playbook contradicts itself."""

    id: str
    about: str
    decision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a rule."""

    id: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Cited:
    """A rule without a number of its own."""

    id: str
    source: str


@dataclass(frozen=True, slots=True)
class MethodOrder:
    """Methods from first to last."""

    id: str
    methods: tuple[Method, ...]
    source: str
