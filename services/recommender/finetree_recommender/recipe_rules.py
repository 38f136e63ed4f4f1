# SPDX-License-Identifier: Apache-2.0
"""The shape of recipe rules: tables that set fields of a RunSpec, computed fields, and ways to make a recipe fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetree_recommender.methods import Method

Value = bool | int | float | str
"""Value of a RunSpec field; enum values go by their proto name."""


@dataclass(frozen=True, slots=True)
class Adaptation:
    """A way to make a recipe fit."""

    id: str
    devices: tuple[str, ...]
    methods: tuple[Method, ...]
    message: str
    source: str
    set: Mapping[str, Value] = field(default_factory=dict)
    becomes: Method | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a recipe table; `value` is multiplied by the field `times` where that is named."""

    id: str
    value: Value
    reason: str
    source: str
    below: float | None = None
    at_least: float | None = None
    equals: tuple[str, ...] = ()
    range: tuple[float, ...] = ()
    times: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that set one field of the recipe."""

    knob: str
    rows: tuple[Row, ...]
    methods: tuple[Method, ...] = tuple(Method)
    profiles: tuple[str, ...] = ("PLAYBOOK", "EVIDENCE")
    input: str = ""
    unknown: str = ""
    factor: bool = False
    cap: float | None = None

    @property
    def total(self) -> bool:
        """Whether some row applies in every case."""
        numeric = bool(self.rows[-1].below) and self.rows[0].at_least is None
        return not self.factor and (not self.input or (bool(self.unknown) and (numeric or bool(self.rows[0].equals))))


@dataclass(frozen=True, slots=True)
class BatchStart:
    """Effective batch size that a method starts from."""

    id: str
    methods: tuple[Method, ...]
    value: int
    range: tuple[float, ...]
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Computed:
    """A field that is computed; `value` is the number of its rule."""

    id: str
    reason: str
    source: str
    value: int = 0


@dataclass(frozen=True, slots=True)
class MinimumSteps:
    """Optimizer steps that a run must have; a smaller batch makes more of them. No `task_kinds` means every kind."""

    id: str
    value: int
    reason: str
    source: str
    task_kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchRules:
    """Effective and micro batch; of `minimum_steps` the first that is about the task's kind applies."""

    start: tuple[BatchStart, ...]
    minimum_steps: tuple[MinimumSteps, ...]
    micro_tokens: Computed
    micro_cpu: Computed


@dataclass(frozen=True, slots=True)
class SequenceRules:
    """Sequence length."""

    p99: Computed
    model: Computed
    unknown: Computed
