# SPDX-License-Identifier: Apache-2.0
"""A run as the formulas see it: every setting resolved, every name looked up, plain numbers."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from finetree_estimator.catalog.architecture import Shape
from finetree_estimator.catalog.devices import Device
from finetree_estimator.catalog.price_book import Owned, Rented
from finetree_estimator.methods.base import Method
from finetree_estimator.programs import FINETREE, Program
from finetree_estimator.recipe import Recipe, recipe_of


class Stretch(NamedTuple):
    """A share of rows whose lengths are spread evenly from `shortest` to `longest`, in tokens."""

    shortest: float
    longest: float
    share: float


@dataclass(slots=True)
class Rows:
    """Token lengths of a set of rows, after truncation to the sequence length. Not to be changed, as a `Run` is not."""

    count: int
    mean: float
    """Mean length in tokens."""
    mean_square: float
    """Mean of the squared length: attention grows with it."""
    longest: int
    """Longest row in tokens."""
    target_fraction: float
    """Share of tokens that are learned, 0 to 1."""
    longest_known: bool = True
    """Whether the distribution of lengths is known rather than only their mean."""
    mean_known: bool = True
    """Whether the mean length is known rather than assumed to be the limit."""
    stretches: tuple[Stretch, ...] = ()
    """How the lengths are spread, shortest first; empty where nothing says so, or nothing depends on it."""

    @property
    def tokens(self) -> float:
        """Tokens of all rows."""
        return self.count * self.mean

    @property
    def attention_span(self) -> float:
        """Mean, over tokens, of the length of the row that a token is in."""
        return self.mean_square / self.mean


class EvaluationPlan(NamedTuple):
    """What is measured on held-out rows: the loss at each look, answers before and after training."""

    rows: Rows | None = None
    generate: bool = False
    max_new_tokens: int = 0
    before: int = 0
    during: int = 0
    after: int = 0
    generate_during: bool = False
    """Whether looks in the middle of the training generate answers too."""


NOT_EVALUATED = EvaluationPlan()
"""Nothing is."""


@dataclass(slots=True)
class Run:
    """One run on `devices` equal devices. Batch sizes count rows; sizes are bytes per number.

    Not to be changed: `dataclasses.replace` makes others. Frozen, each request's would take thrice as long to make.
    """

    shape: Shape
    method: Method
    device: Device
    devices: int
    micro_batch: int
    batch: int
    sequence_length: int
    packing: bool
    rows: Rows | None
    steps: int
    """Optimizer steps; 0 when the number of rows is unknown."""
    weight_bytes: int
    """Of the base weights as stored on the device."""
    compute_bytes: int
    """Of activations."""
    master_bytes: int
    """Of trainable weights, gradients and optimizer moments."""
    optimizer: str
    """adamw, adamw-8bit, paged-adamw-8bit, adafactor or sgd."""
    checkpointing: bool = False
    offloaded: bool = False
    eager_attention: bool = False
    loss: str = "completion-only"
    """full-logits, chunked, fused or completion-only."""
    evaluation: EvaluationPlan = NOT_EVALUATED
    checkpoints: int = 0
    """Checkpoints written during the run."""
    payment: Owned | Rented | None = None
    notes: tuple[str, ...] = ()
    """What had to be guessed of the model."""
    runs_per_month: float = 0.0
    """0 when it is not said."""
    carbon_kg_per_kwh: float = 0.0
    """Kilograms of CO2 equivalent of a kilowatt-hour where the run is made; 0 when it is not known."""
    program: Program = FINETREE
    """What trains."""
    sharding: str = "replicated"
    """What several devices share: replicated, optimizer, gradients or full."""
    nodes: int = 1
    """Machines that the devices are spread over."""
    optimizer_in_backward: bool = False
    """Whether each weight is updated as soon as its gradient is there."""

    _recipe: Recipe | None = field(default=None, init=False, compare=False, repr=False)
    _peak_tokens: float | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def recipe(self) -> Recipe:
        """The part that does not depend on rows, device rates and prices."""
        if self._recipe is None:
            self._recipe = recipe_of(
                self.shape,
                self.method,
                self.program,
                self.optimizer,
                self.weight_bytes,
                self.compute_bytes,
                self.master_bytes,
                self.devices,
                self.sharding,
                self.nodes,
                self.checkpointing,
                self.optimizer_in_backward,
                self.batch <= self.micro_batch * self.devices,
                self.device.is_cpu,
            )
        return self._recipe

    @property
    def peak_tokens(self) -> float:
        """Tokens of the largest micro-batch of one device."""
        if self._peak_tokens is None:
            self._peak_tokens = _most_tokens(self)
        return self._peak_tokens


def _most_tokens(run: Run) -> float:
    """Packing fills a micro-batch up to micro-batch x sequence length, or with all rows of the batch.

    Without packing the worker sorts a batch by length, so that some micro-batch has the longest rows.
    """
    full = float(run.micro_batch * run.sequence_length)
    rows = run.rows
    if rows is None:
        return full
    if not run.packing:
        return min(full, float(run.micro_batch * rows.longest))
    # Row lengths are usually spread as widely as their mean; that is assumed where only the mean is known.
    variance = rows.mean_square - rows.mean**2 if rows.longest_known else rows.mean**2
    spread = math.sqrt(max(0.0, variance))
    share = -(-run.batch // run.devices)
    whole_batch = share * rows.mean + 3 * spread * math.sqrt(share)
    return max(float(rows.longest), min(full, whole_batch))
