# SPDX-License-Identifier: Apache-2.0
"""Answers of the estimator as values, and the interface of its client."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Literal, Protocol, TypeVar

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import evidence_pb2, model_pb2
from finetree_runtime.runspec.device_names import canonical

from finetree_recommender.method import Method

Candidate = tuple[Method, int]
"""A method and the number of its adaptations, in the pack's order."""


class FitState(StrEnum):
    """Whether a recipe fits."""

    FITS = "FITS"
    TIGHT = "TIGHT"
    DOES_NOT_FIT = "DOES_NOT_FIT"
    UNKNOWN = "UNKNOWN"

    __hash__ = str.__hash__  # as of Method

    @property
    def trains(self) -> bool:
        """Whether the recipe fits, tightly or not."""
        return self in (FitState.FITS, FitState.TIGHT)


States = Mapping[Method, FitState]
"""Whether each method's recipe fits."""


Key = TypeVar("Key", bound=Hashable)
"""What a question to the estimator is known by."""
Peaks = Mapping[Method, float]
"""Upper end of the peak of each method's recipe, bytes; methods without an estimate are left out."""
NO_PEAKS: Peaks = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimate of a recipe."""

    fit: FitState
    device_bytes: evidence_pb2.Interval
    usable_bytes: int
    total_seconds: evidence_pb2.Interval | None
    """None where the number of rows is unknown, as is then the cost."""
    cost: evidence_pb2.MoneyInterval | None
    optimizer_steps: int
    trainable: int = 0
    """Parameters that are trained; 0 when unknown."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a recipe has no estimate."""

    reason: str
    message: str
    violations: tuple[tuple[str, str], ...] = ()
    """Field paths and what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Best:
    """Best recipe of a method: of those that fit best, the least adapted one."""

    state: FitState
    adapted: int = 0
    """Number of adaptations."""
    estimate: Estimate | None = None
    smallest: bool = False
    """Whether it has every adaptation that was asked for, so that the method needs no less."""


@dataclass(frozen=True)
class Evidence:
    """Answers of one batch of estimates."""

    rows: Mapping[Candidate, Estimate | Refused]
    """Estimated recipes; the estimator chooses among the plain and the adapted ones of each method."""
    revision: evidence_pb2.Revision
    parameters: int | None
    """Parameters of the base model."""
    asked: Mapping[Method, int] = field(default_factory=dict)
    """Number of adaptations that each method was asked for."""

    @cached_property
    def best(self) -> Mapping[Method, Best]:
        """Best recipe of each method: the first that fits, else the first that fits tightly, else the smallest."""
        return {method: _best(list(self._estimated(method)), self.asked.get(method)) for method in Method}

    @cached_property
    def states(self) -> States:
        """Whether each method's best recipe fits."""
        return {method: best.state for method, best in self.best.items()}

    @cached_property
    def peaks(self) -> Peaks:
        """Upper end of the peak of each method's best recipe."""
        return {m: best.estimate.device_bytes.high for m, best in self.best.items() if best.estimate is not None}

    def _estimated(self, method: Method) -> Iterator[tuple[int, Estimate]]:
        """Estimates of a method's recipes by the number of their adaptations, the least adapted first."""
        for (asked, adapted), row in sorted(self.rows.items(), key=lambda item: item[0][1]):
            if asked is method and isinstance(row, Estimate):
                yield adapted, row


def _best(estimates: list[tuple[int, Estimate]], asked: int | None) -> Best:
    for state in (FitState.FITS, FitState.TIGHT, FitState.UNKNOWN, FitState.DOES_NOT_FIT):
        found = [pair for pair in estimates if pair[1].fit is state]
        if found:
            # Of recipes that do not fit, the smallest lacks the least memory.
            adapted, row = found[-1] if state is FitState.DOES_NOT_FIT else found[0]
            return Best(state, adapted, row, smallest=adapted == asked)
    return Best(FitState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """An accelerator of the catalog; memory in GB as marketed."""

    marketed_gb: float
    native_bf16: bool
    name: str = ""
    display_name: str = ""
    capability: float | None = None
    """CUDA compute capability; None where there is none."""
    unsupported: str = ""
    """Why it is not supported; empty where it is."""


_MIXERS: tuple[Literal["linear_attention", "full_attention", "convolution", "latent_attention"], ...] = (
    "linear_attention",
    "full_attention",
    "convolution",
    "latent_attention",
)


def has_uneven_keys(shape: model_pb2.ModelShape) -> bool:
    """Whether not all layers have keys and values of one shape.

    Linear attention keeps a state in their place, and a convolution none; those of latent attention are of two widths;
    in Gemma 4 layers differ, or take another one's.
    """
    return shape.kv_shared_layers > 0 or any(shape.HasField(mixer) for mixer in _MIXERS)


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the catalog."""

    parameters: int
    longest: int
    """Longest sequence in tokens; 0 when unknown."""
    experts: int = 0
    """Experts of a layer; 0 where it has none."""
    names: tuple[str, ...] = ()
    """Its names in the catalog, the catalog's own first, then hub ids."""
    family: str = ""
    """model_type of its config.json; empty where unknown."""
    uneven_keys: bool = False
    """Whether not all layers have keys and values of one shape."""

    @property
    def name(self) -> str:
        """The catalog's own name; empty where it is in none."""
        return self.names[0] if self.names else ""


@dataclass(frozen=True, eq=False)
class Catalog:
    """Accelerators and models by lower-case name (models also by hub id, accelerators by every alias)."""

    accelerators: Mapping[str, Accelerator] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)

    @cached_property
    def entries(self) -> tuple[Accelerator, ...]:
        """Every accelerator once, whatever its aliases."""
        return tuple({item.name: item for item in self.accelerators.values()}.values())

    @cached_property
    def series(self) -> tuple[Model, ...]:
        """Every model with a name once, whatever its aliases."""
        return tuple({item.name: item for item in self.models.values() if item.name}.values())

    @cached_property
    def trainable(self) -> tuple[tuple[str, Accelerator], ...]:
        """Canonical name of each supported accelerator."""
        return tuple((canonical(item.name), item) for item in self.entries if not item.unsupported)


class EstimatorUnavailableError(Exception):
    """The estimator did not answer."""


class Estimator(Protocol):
    """Estimator, as far as a recommendation needs it."""

    async def catalog(self) -> Catalog:
        """Return accelerators and models, which are kept between calls.

        Raises:
            EstimatorUnavailableError: It did not answer.
        """
        ...

    async def evidence(self, rows: Mapping[Method, estimate_pb2.EstimateRunRequest]) -> Evidence:
        """Estimate all methods' recipes, each adapted until it fits, in one call.

        Raises:
            EstimatorUnavailableError: It did not answer.
        """
        ...

    async def estimates(self, rows: Mapping[Key, estimate_pb2.EstimateRunRequest]) -> dict[Key, estimate_pb2.Estimate]:
        """Estimate in one call, and return the replies; a row that is refused is left out.

        Raises:
            EstimatorUnavailableError: It did not answer.
        """
        ...
