# SPDX-License-Identifier: Apache-2.0
"""What a resolved spec chooses, in plain values: read once for all requests that differ in nothing but names and data.

Every field that is read from a message costs more than a product of the formulas, and requests that come in turn share
most of their settings. So settings without the names in them are read once, and kept by their bytes.
"""

from dataclasses import dataclass
from functools import lru_cache

from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.errors import invalid_field
from finetree_runtime.runspec.conflicts import Problem, combination_problem
from finetree_runtime.runspec.resolve import LONGEST_KEPT, steps_of

from finetree_estimator.catalog import devices
from finetree_estimator.catalog.devices import Device
from finetree_estimator.catalog.names import is_currency
from finetree_estimator.catalog.price_book import Owned
from finetree_estimator.programs import Program
from finetree_estimator.run import EvaluationPlan, Rows

_OPTIMIZERS = {
    rs.OPTIMIZER_ADAMW: "adamw",
    rs.OPTIMIZER_ADAMW_8BIT: "adamw-8bit",
    rs.OPTIMIZER_PAGED_ADAMW_8BIT: "paged-adamw-8bit",
    rs.OPTIMIZER_ADAFACTOR: "adafactor",
    rs.OPTIMIZER_SGD: "sgd",
}
_LOSSES = {
    rs.LOSS_KERNEL_FULL_LOGITS: "full-logits",
    rs.LOSS_KERNEL_CHUNKED: "chunked",
    rs.LOSS_KERNEL_FUSED: "fused",
    rs.LOSS_KERNEL_COMPLETION_ONLY: "completion-only",
}
_SHARDINGS = {
    rs.SHARDING_UNSPECIFIED: "replicated",
    rs.SHARDING_REPLICATED: "replicated",
    rs.SHARDING_OPTIMIZER: "optimizer",
    rs.SHARDING_GRADIENTS: "gradients",
    rs.SHARDING_FULL: "full",
}
_CHECKPOINTED = (rs.GRADIENT_CHECKPOINTING_FULL, rs.GRADIENT_CHECKPOINTING_OFFLOADED)


@dataclass(frozen=True, slots=True)
class Looks:
    """How a run is evaluated, before anything is known of its data."""

    split_fraction: float
    """Share of the training data that is held out; 0 where the spec names a dataset for it."""
    profile: rs.DatasetProfile | None
    """What the spec says of the dataset that it names, if it does."""
    plan: EvaluationPlan
    """Everything but the rows and the number of looks during training."""
    every_steps: int


@dataclass(frozen=True, slots=True)
class Choices:
    """Settings of a resolved spec. What has a run's name is that of a run."""

    spec: rs.RunSpec
    """The spec without names, for what is read from it more rarely; not to be changed."""
    problem: Problem | None
    """What cannot go together."""
    method: bytes
    """A spec with the method and nothing else, as bytes of the wire: far fewer differ than settings do."""
    full: bool
    """Whether all weights are trained."""
    fp32: bool
    bf16: bool
    """Whether everything is in 16 bits."""
    device: Device | None
    """None where an accelerator is named."""
    devices: int
    nodes: int
    sharding: str
    micro_batch: int
    batch: int
    sequence_length: int
    packing: bool
    learns_all: bool
    """Whether questions are learned too."""
    epochs: float
    max_steps: int
    """0 where the run's length is said in epochs."""
    optimizer: str
    checkpointing: bool
    offloaded: bool
    eager_attention: bool
    loss: str
    in_backward: bool
    checkpoint_every: int
    looks: Looks
    owned: Owned | None
    price_id: str

    def steps(self, examples: int) -> int:
        """Optimizer steps over so many rows."""
        return self.max_steps or steps_of(examples, batch=self.batch, epochs=self.epochs)

    def number_sizes(self, program: Program) -> tuple[int, int, int]:
        """Bytes of base weights, activations, and trained weights with their gradients and moments."""
        if self.fp32:
            return 4, 4, 4
        if self.full and self.bf16:
            shared = program.casts_module or (program.sharded_master and self.devices > 1)
            return self._shared_sizes(program) if shared else (2, 2, 2)
        if self.full and self.devices > 1 and self.sharding == "full":
            return self._shared_sizes(program)
        # Adapters are float32 whatever the base is (PEFT's autocast_adapter_dtype, and the worker's rule).
        frozen_mixed = not self.full and not self.bf16
        return program.mixed_base_bytes if frozen_mixed else 2, 2, 4

    def _shared_sizes(self, program: Program) -> tuple[int, int, int]:
        """The same of a fully trained model whose shards are float32.

        FSDP gathers 16-bit weights from them and keeps none. DeepSpeed keeps them beside, and its engine does so on one
        device as well, whose shard is the whole (single_partition_of_fp32_groups).
        """
        if program.casts_module and (self.devices == 1 or self.sharding in ("gradients", "full")):
            return 2, 2, 4
        return (4, 2, 4) if self.sharding == "full" else (2, 2, 2)

    def evaluation(self, rows: Rows | None, steps: int) -> EvaluationPlan:
        """The looks at held-out rows of a run of so many steps."""
        looks, plan = self.looks, self.looks.plan
        during = (steps - 1) // looks.every_steps if looks.every_steps and steps else 0
        if rows is None and not during:
            return plan
        return EvaluationPlan(
            rows,
            plan.generate,
            plan.max_new_tokens,
            plan.before,
            during,
            plan.after,
            plan.generate_during,
        )


def choices(settings: bytes) -> Choices:
    """What settings say that `plan.resolved_settings` has made."""
    return _kept(settings) if len(settings) <= LONGEST_KEPT else _choices(settings)


def _choices(settings: bytes) -> Choices:
    spec = rs.RunSpec.FromString(settings)
    training, hardware = spec.training, spec.hardware
    return Choices(
        spec=spec,
        problem=combination_problem(spec),
        method=_method(spec),
        full=spec.WhichOneof("method") == "full",
        fp32=spec.precision == rs.PRECISION_FP32,
        bf16=spec.precision == rs.PRECISION_BF16,
        device=_unnamed(hardware, fp32=spec.precision == rs.PRECISION_FP32),
        devices=max(1, hardware.count),
        nodes=max(1, hardware.nodes),
        sharding=_SHARDINGS[hardware.sharding],
        micro_batch=training.micro_batch_size,
        batch=training.effective_batch_size,
        sequence_length=training.sequence_length,
        packing=training.packing == rs.PACKING_ON,
        learns_all=training.loss_tokens == rs.LOSS_TOKENS_ALL,
        epochs=training.epochs,
        max_steps=training.max_steps,
        optimizer=_OPTIMIZERS[spec.optimizer],
        checkpointing=spec.gradient_checkpointing in _CHECKPOINTED,
        offloaded=spec.gradient_checkpointing == rs.GRADIENT_CHECKPOINTING_OFFLOADED,
        eager_attention=spec.attention == rs.ATTENTION_KERNEL_EAGER,
        loss=_LOSSES[spec.loss_kernel],
        in_backward=spec.optimizer_in_backward,
        checkpoint_every=spec.checkpoints.every_steps,
        looks=_looks(spec.evaluation),
        owned=_owned(spec.ownership),
        price_id=spec.ownership.rented.price_id,
    )


_kept = lru_cache(maxsize=4096)(_choices)


def _method(spec: rs.RunSpec) -> bytes:
    """The spec without all that is not its method."""
    alone = rs.RunSpec()
    kind = spec.WhichOneof("method")
    if kind is not None:
        getattr(alone, kind).CopyFrom(getattr(spec, kind))
    return alone.SerializeToString()


def _unnamed(hardware: rs.Hardware, *, fp32: bool) -> Device | None:
    kind = hardware.WhichOneof("device")
    if kind == "cpu":
        cpu = hardware.cpu
        return devices.processor(
            name=cpu.model_name,
            cores=cpu.cores,
            memory_bytes=cpu.memory_bytes,
            measured_flops=cpu.fp32_flops_per_second if fp32 else cpu.bf16_flops_per_second,
        )
    if kind == "unknown_accelerator":
        return devices.by_memory_class(hardware.unknown_accelerator.marketed_memory_gb)
    return None


def _looks(wanted: rs.Evaluation) -> Looks:
    named = wanted.HasField("dataset")
    return Looks(
        split_fraction=0.0 if named else wanted.split_fraction,
        profile=wanted.dataset.profile if wanted.dataset.WhichOneof("source") == "profile" else None,
        plan=EvaluationPlan(
            generate=rs.METRIC_EXACT_MATCH in wanted.metrics,
            max_new_tokens=wanted.max_new_tokens,
            before=1 if wanted.before_training else 0,
            after=1 if wanted.metrics else 0,
            generate_during=wanted.best_by == rs.METRIC_EXACT_MATCH,
        ),
        every_steps=wanted.every_steps,
    )


def _owned(ownership: rs.Ownership) -> Owned | None:
    """Terms of own hardware, where it is the run's. Raises InvalidArgument."""
    if ownership.WhichOneof("kind") != "owned":
        return None
    owned = ownership.owned
    currency = owned.currency_code.upper() or "USD"
    if not is_currency(currency):
        text = f"{owned.currency_code!r} is no ISO 4217 code such as USD"
        raise invalid_field("spec.ownership.owned.currency_code", text)
    return Owned(owned.tariff_per_kwh, currency, owned.watts)
