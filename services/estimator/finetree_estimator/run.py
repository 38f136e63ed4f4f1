# SPDX-License-Identifier: Apache-2.0
"""A run as the formulas see it: every setting resolved, every name looked up, plain numbers."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from finetree_estimator.catalog.devices import Device
from finetree_estimator.catalog.price_book import Owned, Quote
from finetree_estimator.methods.base import Method
from finetree_estimator.programs import FINETREE, Program
from finetree_estimator.remarks import Remark
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.parameters import Parameters, count


class LengthRange(NamedTuple):
    """A share of rows whose lengths are spread evenly from `shortest` to `longest`, in tokens."""

    shortest: float
    longest: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Token lengths of a set of rows, after truncation to the sequence length."""

    count: int
    mean: float
    """Mean length in tokens."""
    mean_square: float
    """Mean of the squared length in tokens: attention grows with it."""
    longest: int
    """Longest row in tokens."""
    target_fraction: float
    """Share of tokens that are learned, 0 to 1."""
    longest_known: bool = True
    """Whether the distribution of lengths is known rather than only their mean."""
    mean_known: bool = True
    """Whether the mean length is known rather than assumed to be the limit."""
    truncated: float = 0.0
    """Share of all tokens that truncation leaves out, 0 to 1; the least possible, since lengths are ranges."""
    length_ranges: tuple[LengthRange, ...] = ()
    """How the lengths are spread, shortest first; empty where nothing says so, or nothing depends on it."""
    ends: "tuple[Rows, Rows] | None" = None
    """The same rows with the fewest and the most tokens that they may have; None where their tokens are counted."""

    @property
    def tokens(self) -> float:
        """Tokens of all rows."""
        return self.count * self.mean

    @property
    def attention_span(self) -> float:
        """Mean, over tokens, of the length in tokens of the row that a token is in."""
        return self.mean_square / self.mean


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What is measured on held-out rows: the loss at each evaluation, answers before and after training."""

    rows: Rows | None = None
    generate: bool = False
    """Whether answers are generated."""
    max_new_tokens: int = 0
    before: int = 0
    """Evaluations before training."""
    during: int = 0
    after: int = 0
    generate_during: bool = False
    """Whether evaluations in the middle of the training generate answers too."""


NOT_EVALUATED = EvaluationPlan()
"""Nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run on `devices` equal devices. Batch sizes count rows."""

    shape: Shape
    method: Method
    program: Program = FINETREE
    """The program that trains."""
    device: Device
    devices: int = 1
    nodes: int = 1
    """Machines that the devices are spread over."""
    network_bandwidth: float = math.inf
    """Bytes per second that the adapters of a machine pass to another, in one direction, all together."""
    network_known: bool = False
    """Whether the network's rate is said, rather than that of a usual machine with such devices."""
    sharding: str = "replicated"
    """What several devices share: replicated, optimizer, gradients or full."""

    micro_batch: int
    batch: int
    """Rows of an optimizer step, over all devices."""
    sequence_length: int
    packing: bool
    rows: Rows | None
    steps: int
    """Optimizer steps; 0 when the number of rows is unknown."""

    weight_bytes: int
    """Bytes per number of the base weights as stored on the device."""
    compute_bytes: int
    """Bytes per number of activations."""
    master_bytes: int
    """Bytes per number of trainable weights, gradients and optimizer moments."""
    optimizer: str
    """adamw, adamw-8bit, paged-adamw-8bit, adafactor or sgd."""
    optimizer_in_backward: bool = False
    """Whether each weight is updated as soon as its gradient is there."""
    checkpointing: bool = False
    offloaded: bool = False
    """Whether the layer inputs that checkpointing keeps are moved to the host."""
    eager_attention: bool = False
    flash_attention: bool = False
    """Whether attention is FlashAttention's own function, which skips what a sliding window hides."""
    loss: str = "completion-only"
    """full-logits, in-place, chunked, fused or completion-only."""

    evaluation: EvaluationPlan = NOT_EVALUATED
    checkpoints: int = 0
    """Checkpoints written during the run."""
    payment: Owned | Quote | None = None
    remarks: tuple[Remark, ...] = ()
    """What had to be guessed of the model."""
    runs_per_month: float = 0.0
    """0 when it is not known."""
    carbon_kg_per_kwh: float = 0.0
    """Kilograms of CO2 equivalent of a kilowatt-hour where the run is made; 0 when it is not known."""

    # ------------------------------------------------------------------------------------------------------- rows

    @property
    def counts_tokens(self) -> bool:
        """Whether the tokens of all rows are counted, or taken to be."""
        return all(rows is None or rows.ends is None for rows in (self.rows, self.evaluation.rows))

    def with_end(self, end: int) -> "Run":
        """The run whose rows have the fewest tokens that they may have (`end` 0), or the most (1)."""
        evaluation = replace(self.evaluation, rows=_at_end(self.evaluation.rows, end))
        return replace(self, rows=_at_end(self.rows, end), evaluation=evaluation)

    # ------------------------------------------------------------------------------------------ model and devices

    @cached_property
    def stored_shape(self) -> Shape:
        """The model as the program holds it: some programs have no tied embeddings."""
        if self.program.unties_head and self.shape.tied:
            return replace(self.shape, tied=False)
        return self.shape

    @cached_property
    def parameters(self) -> Parameters:
        """Parameters of the model as the program holds it."""
        return count(self.stored_shape)

    @cached_property
    def trainable_parameters(self) -> int:
        """Parameters that get a gradient, of the model as the program holds it."""
        return self.method.trainable_parameters(self.stored_shape)

    @property
    def on_cpu(self) -> bool:
        """Whether a processor trains."""
        return self.device.is_cpu

    @property
    def sharded(self) -> bool:
        """Whether the weights themselves are spread over devices."""
        return self.sharding == "full" and self.devices > 1

    @property
    def gathered_bytes(self) -> int:
        """Bytes per number of sharded weights as they are gathered."""
        return self.weight_bytes if self.program.gathers_stored else self.compute_bytes

    @property
    def counts_exactly(self) -> bool:
        """Whether weights are known to the byte: not of a guessed model, nor in a format that libraries differ in."""
        return not self.shape.guessed and self.method.packs_exactly

    @property
    def longest_attended(self) -> int:
        """Tokens of the longest stretch that attention sees at once: a row, or all of a packed one."""
        if self.rows is not None and self.program.attends_by_document:
            return min(self.sequence_length, self.rows.longest)
        return self.longest_row

    @cached_property
    def masks_windows(self) -> bool:
        """Whether layers with a sliding window attend under a mask that the kernel of torch's attention reads.

        transformers and the worker make one where a row is longer than the window (transformers' masking_utils,
        _ignore_causal_mask_sdpa); FlashAttention's function and Unsloth's take the window itself.
        """
        masked = not (self.flash_attention or self.eager_attention or self.program.windows_in_kernel)
        return masked and 0 < self.shape.window < self.longest_attended

    # --------------------------------------------------------------------------------------------- number formats

    @property
    def raises_base(self) -> bool:
        """Whether what is not packed of a quantized base, and with it the residual stream, is float32.

        prepare_model_for_kbit_training (PEFT) leaves a GPTQ model as it is, and TRL and the FSDP examples do not call
        it for a sharded one: a shard is one flat tensor, so that all of a unit's weights have one type.
        """
        raises = self.program.raises_quantized_base and not self.program.casts_module
        return self.method.prepared_for_kbit_training and raises and not self.sharded

    @property
    def activation_bytes(self) -> int:
        """Bytes per number of what layers and head give: float32 after a raised base that no autocast takes down."""
        autocast = self.weight_bytes > self.compute_bytes
        return 4 if self.raises_base and not autocast else self.compute_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes per number of embeddings, norms and head as the model holds them."""
        if self.raises_base:
            return 4
        if self.program.casts_module:
            return self.compute_bytes
        return self.master_bytes if self.method.trains_base else self.weight_bytes

    @property
    def stream_bytes(self) -> int:
        """Bytes per number of the residual stream: float32 where the program raises a quantized base."""
        if self.raises_base:
            return 4
        casts = not self.sharded and self.program.mixed_base_bytes > self.compute_bytes
        if casts and self.stored_bytes > self.compute_bytes:
            # Embeddings in float32 make the stream float32; products are cast down. Shards are cast as they are
            # gathered.
            return self.stored_bytes
        return self.compute_bytes

    @property
    def autocasts_trained_weights(self) -> bool:
        """Whether a fully trained model has float32 weights that autocast copies to 16 bits for each product."""
        return self.method.trains_base and self.compute_bytes < self.master_bytes

    @property
    def trained_bytes(self) -> int:
        """Bytes per number of trained weights and gradients: the program may have a type of its own for adapters."""
        if not self.method.trains_base and self.program.adapter_bytes:
            return min(self.program.adapter_bytes, self.master_bytes)
        return self.master_bytes

    @property
    def gradient_bytes(self) -> int:
        """Bytes per number of gradients: those of 16-bit weights beside float32 masters stay in 16 bits."""
        casts = self.program.casts_module and self.autocasts_trained_weights
        return self.compute_bytes if casts else self.trained_bytes

    @property
    def whole_bytes(self) -> int:
        """Bytes per number of embeddings and head that are trained whole beside adapters, and of their gradients.

        Copies have the type of what they copy (PEFT's ModulesToSaveWrapper), unless the program has one for all.
        """
        return self.program.adapter_bytes or self.stored_bytes

    def trained_size(self, adapter_bytes: int) -> int:
        """Bytes of all that is trained, at so many for each number that is not trained whole beside adapters."""
        whole = self.method.whole_parameters(self.stored_shape)
        return (self.trainable_parameters - whole) * adapter_bytes + whole * self.whole_bytes

    # ----------------------------------------------------------------------------------------------------- batches

    @property
    def whole_logits(self) -> bool:
        """Whether the logits of all positions exist at once."""
        return self.loss in ("full-logits", "in-place")

    @property
    def rows_at_once(self) -> int:
        """Most rows that a device computes at once: those of a micro-batch, at most its share of the batch."""
        return min(self.micro_batch, -(-self.batch // self.devices))

    @property
    def one_micro_batch(self) -> bool:
        """Whether a device's share of the batch is a single micro-batch."""
        return self.batch <= self.micro_batch * self.devices

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row that attention sees: packed rows make one of the sequence's length."""
        rows = self.rows
        return self.sequence_length if rows is None or self.packing else min(self.sequence_length, rows.longest)

    @cached_property
    def peak_tokens(self) -> float:
        """Tokens of the largest micro-batch of one device.

        Packing fills a micro-batch up to micro-batch x sequence length, or with all rows of the batch. Without packing
        the worker sorts a batch by length, so that some micro-batch has the longest rows.
        """
        full = float(self.rows_at_once * self.sequence_length)
        rows = self.rows
        if rows is None:
            return full
        if not self.packing:
            return min(full, float(self.rows_at_once * rows.longest))
        # Row lengths are usually spread as widely as their mean; that is assumed where only the mean is known.
        variance = rows.mean_square - rows.mean**2 if rows.longest_known else rows.mean**2
        spread = math.sqrt(max(0.0, variance))
        share = -(-self.batch // self.devices)
        whole_batch = share * rows.mean + 3 * spread * math.sqrt(share)
        return max(float(rows.longest), min(full, whole_batch))


def _at_end(rows: Rows | None, end: int) -> Rows | None:
    return rows if rows is None or rows.ends is None else rows.ends[end]
