# SPDX-License-Identifier: Apache-2.0
"""Recipe rules: tables that set fields of a RunSpec, computed fields, and adaptations."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetree_recommender.method import Method

Value = bool | int | float | str
"""Value of a RunSpec field; enum values by their proto name."""


@dataclass(frozen=True, slots=True)
class Adaptation:
    """Adaptation that makes a recipe smaller."""

    id: str
    devices: tuple[str, ...]
    """Devices: "gpu", "cpu", or values of the recipe input `device`, such as "gpu_bf16"."""
    methods: tuple[Method, ...]
    message: str
    source: str
    set: Mapping[str, Value] = field(default_factory=dict)
    becomes: Method | None = None
    cut_rows_at: int = 0
    """Largest number of tokens of a sequence; it does not apply to recipes with shorter rows."""


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
    parameters_from: float = 0
    """Smallest size of the base model that the table is read for; an unknown size counts as 1."""

    @property
    def total(self) -> bool:
        """Whether some row applies in every case."""
        numeric = bool(self.rows[-1].below) and self.rows[0].at_least is None
        partial = self.factor or self.parameters_from > 0
        return not partial and (not self.input or (bool(self.unknown) and (numeric or bool(self.rows[0].equals))))


@dataclass(frozen=True, slots=True)
class BatchStart:
    """Effective batch size to start from; for every domain without `task_domains`, for any rows without `below`."""

    id: str
    methods: tuple[Method, ...]
    value: int
    range: tuple[float, ...]
    reason: str
    source: str
    task_domains: tuple[str, ...] = ()
    below: int | None = None

    @property
    def general(self) -> bool:
        """Whether it applies to every task."""
        return not self.task_domains and self.below is None

    def applies(self, method: Method, task_domain: str, examples: float | None) -> bool:
        """Whether it applies to this method, task and number of rows; an unknown number is below nothing."""
        few = self.below is None or (examples is not None and examples < self.below)
        return method in self.methods and few and (not self.task_domains or task_domain in self.task_domains)


@dataclass(frozen=True, slots=True)
class Computed:
    """A field that is computed; `value` is the number of its rule."""

    id: str
    reason: str
    source: str
    value: int = 0


@dataclass(frozen=True, slots=True)
class BatchRules:
    """Effective and micro batch; of `start` the first rule that applies is taken."""

    start: tuple[BatchStart, ...]
    minimum_steps: Computed
    micro_tokens: Computed
    micro_cpu: Computed


@dataclass(frozen=True, slots=True)
class SequenceRules:
    """Sequence length."""

    p99: Computed
    model: Computed
    unknown: Computed
