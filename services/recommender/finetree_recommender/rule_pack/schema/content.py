# SPDX-License-Identifier: Apache-2.0
"""Content of a pack beside its rules: charts, guides, situations, and published results.

`request` is a part of a RecommendRequest and `settings` a part of a RunSpec, both as proto JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.schema.recipe import Value


@dataclass(frozen=True, slots=True)
class FigureKind:
    """A kind of figure that cards carry; the unit is part of the name."""

    name: str
    label: str


@dataclass(frozen=True, slots=True)
class HardwareEntry:
    """A row of the hardware chart; hours of a run and USD a month, `method` None where none is recommended."""

    id: str
    accelerator: str
    gb: float
    source: str
    method: Method | None = None
    hours: float | None = None
    usd_month: float | None = None
    open_ended: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class ReferenceGpu:
    """GPU of a method's costs; the price of an hour is in the pack's times."""

    id: str
    method: Method
    accelerator: str
    source: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A value of a parameter and when to choose it; quality in percent of full fine-tuning."""

    id: str
    value: str
    source: str
    label: str = ""
    use_for: tuple[str, ...] = ()
    recommended: bool = False
    low: float | None = None
    high: float | None = None
    minimum_gpu_gb: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class ChoiceGuide:
    """Values of a parameter, in the order to show them."""

    name: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Situation:
    """A situation and the method for it."""

    id: str
    title: str
    method: Method
    source: str
    request: str = "{}"
    settings: str = "{}"
    requirements: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A published or measured result about methods; the text names the unit of the interval."""

    id: str
    methods: tuple[Method, ...]
    claim: str
    text: str
    source: str
    low: float | None = None
    expected: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Literal:
    """Statement of the playbook that the rules do not follow; `resolution` says why."""

    id: str
    about: str
    resolution: str
    source: str
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Content:
    """Content of a pack beside its rules."""

    figure_kinds: tuple[FigureKind, ...]
    hardware: tuple[HardwareEntry, ...]
    reference_gpus: tuple[ReferenceGpu, ...]
    basis: str
    """Conditions of the hours and prices."""
    guides: tuple[ChoiceGuide, ...]
    situations: tuple[Situation, ...]
    quick_reference: tuple[Situation, ...]
    scenarios: tuple[Situation, ...]
    findings: tuple[Finding, ...] = ()
    literals: tuple[Literal, ...] = ()
