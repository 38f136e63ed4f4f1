# SPDX-License-Identifier: Apache-2.0
"""Parts of rules: sources, numbers with a source, conditions.

`source` is a key of the pack's sources with a place inside it ("playbook L264"); `Pack.provenance` resolves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from finetree_recommender.method import Method

When = Mapping[str, tuple[str, ...]]
"""A condition: for each named input, the answers that satisfy it. All named inputs must agree; empty is always true."""


class SourceKind(StrEnum):
    """Kind of source; the values are the contract's names."""

    MEASURED = "MEASURED"
    PUBLISHED = "PUBLISHED"
    PLAYBOOK = "PLAYBOOK"
    COMPUTED = "COMPUTED"


@dataclass(frozen=True, slots=True)
class Source:
    """Work that numbers are taken from."""

    kind: SourceKind
    source: str
    date: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """Resolution of a contradiction of the playbook."""

    id: str
    about: str
    decision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Number:
    """Number of a rule."""

    id: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Cited:
    """Rule without a number."""

    id: str
    source: str


@dataclass(frozen=True, slots=True)
class MethodOrder:
    """Methods from first to last."""

    id: str
    methods: tuple[Method, ...]
    source: str
