# SPDX-License-Identifier: Apache-2.0
"""What the estimator knows, in the recommender's words."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from finetree_api.estimator.v1 import estimator_pb2 as est
from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_recommender.method import Method

Candidate = tuple[Method, int]
"""A method and how many of its adaptations are applied, in the pack's order."""


class FitState(StrEnum):
    """Whether a recipe fits."""

    FITS = "FITS"
    TIGHT = "TIGHT"
    DOES_NOT_FIT = "DOES_NOT_FIT"
    UNKNOWN = "UNKNOWN"


class Priced(NamedTuple):
    """Estimate of a recipe."""

    fit: FitState
    device_bytes: ev.Interval
    usable_bytes: int
    total_seconds: ev.Interval | None
    """None where the number of rows is unknown, as is then the cost."""
    cost: ev.Interval | None
    currency: str
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


@dataclass(slots=True)
class Evidence:
    """Answers of one batch of estimates. Not to be changed."""

    rows: Mapping[Candidate, Priced | Refused]
    """Of each method the recipe that fits, as the estimator chose it among the plain and the adapted ones."""
    revision: ev.Revision
    parameters: int | None
    """Parameters of the base model."""
    kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was found out of the rows, so that it is found out once."""

    def of(self, method: Method) -> tuple[tuple[int, Priced | Refused], ...]:
        """Answers for a method with the number of adaptations that each has, the least adapted first."""
        found = [(index, row) for (asked, index), row in self.rows.items() if asked is method]
        return tuple(sorted(found, key=itemgetter(0)) if len(found) > 1 else found)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """An accelerator of the catalogue; memory in GB as marketed."""

    marketed_gb: float
    native_bf16: bool
    name: str = ""
    display_name: str = ""
    capability: float | None = None
    """CUDA compute capability; None for what has none."""
    unsupported: str = ""
    """Why it cannot be trained on; empty where it can."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the catalogue; `longest` is its longest sequence in tokens, 0 when unknown."""

    parameters: int
    longest: int
    experts: int = 0
    """Experts of a layer; 0 where it has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Accelerators and models by lower-case name (models also by hub id, accelerators by every alias).

    Compared and hashed by identity, as a key of what is kept for it.
    """

    accelerators: Mapping[str, Accelerator] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)

    def entries(self) -> Iterator[Accelerator]:
        """The accelerators, each once, whatever names it goes by."""
        return iter({item.name: item for item in self.accelerators.values()}.values())


NO_CATALOGUE = Catalogue()
"""That of an estimator that does not answer: one for all, for what is kept for a catalogue goes by its identity."""


class EstimatorUnavailableError(Exception):
    """The estimator did not answer."""


class Estimator(Protocol):
    """The estimator, as far as a recommendation needs it."""

    async def catalogue(self) -> Catalogue:
        """Accelerators and models; remembered from call to call.

        Raises:
            EstimatorUnavailableError: It did not answer.
        """
        ...

    async def price(self, rows: Mapping[Method, bytes]) -> Evidence:
        """Estimates of all methods' recipes, each adapted until it fits, in one call.

        The recipes are EstimateRunRequests as bytes of the wire: put together of parts that are kept so.

        Raises:
            EstimatorUnavailableError: It did not answer.
        """
        ...

    async def estimates(self, rows: dict[Method, est.EstimateRunRequest]) -> dict[Method, est.Estimate]:
        """Estimates as they come, in one call; a row that is refused is left out.

        Raises:
            EstimatorUnavailableError: It did not answer.
        """
        ...
