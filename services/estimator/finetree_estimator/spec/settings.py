# SPDX-License-Identifier: Apache-2.0
"""Conversion of the settings of a resolved RunSpec to plain values."""

from collections.abc import Iterator
from typing import NamedTuple

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2, training_data_pb2, training_pb2
from finetree_runtime.errors import invalid_field
from finetree_runtime.runspec.number_formats import slow_format_problem

from finetree_estimator import constants as c
from finetree_estimator.catalog.devices import Device
from finetree_estimator.programs import (
    AXOLOTL,
    FINETREE,
    LITGPT,
    LLM_FOUNDRY,
    PYTORCH,
    TORCHTUNE,
    TRANSFORMERS,
    UNSLOTH,
    Program,
    unraised,
    variant,
)
from finetree_estimator.remarks import Remark
from finetree_estimator.run import EvaluationPlan, Rows
from finetree_estimator.spec.row_lengths import rows_of

OPTIMIZERS = {
    training_pb2.OPTIMIZER_ADAMW: "adamw",
    training_pb2.OPTIMIZER_ADAMW_8BIT: "adamw-8bit",
    training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT: "paged-adamw-8bit",
    training_pb2.OPTIMIZER_ADAFACTOR: "adafactor",
    training_pb2.OPTIMIZER_SGD: "sgd",
}
LOSSES = {
    training_pb2.LOSS_KERNEL_FULL_LOGITS: "full-logits",
    training_pb2.LOSS_KERNEL_CHUNKED: "chunked",
    training_pb2.LOSS_KERNEL_FUSED: "fused",
    training_pb2.LOSS_KERNEL_COMPLETION_ONLY: "completion-only",
    training_pb2.LOSS_KERNEL_IN_PLACE: "in-place",
}
SHARDINGS = {
    hardware_pb2.SHARDING_UNSPECIFIED: "replicated",
    hardware_pb2.SHARDING_REPLICATED: "replicated",
    hardware_pb2.SHARDING_OPTIMIZER: "optimizer",
    hardware_pb2.SHARDING_GRADIENTS: "gradients",
    hardware_pb2.SHARDING_FULL: "full",
}
_PROGRAMS = {
    training_pb2.TRAINING_PROGRAM_UNSPECIFIED: FINETREE,
    training_pb2.TRAINING_PROGRAM_FINETREE: FINETREE,
    training_pb2.TRAINING_PROGRAM_TRANSFORMERS: TRANSFORMERS,
    training_pb2.TRAINING_PROGRAM_LITGPT: LITGPT,
    training_pb2.TRAINING_PROGRAM_TORCHTUNE: TORCHTUNE,
    training_pb2.TRAINING_PROGRAM_UNSLOTH: UNSLOTH,
    training_pb2.TRAINING_PROGRAM_LLM_FOUNDRY: LLM_FOUNDRY,
    training_pb2.TRAINING_PROGRAM_PYTORCH: PYTORCH,
    training_pb2.TRAINING_PROGRAM_AXOLOTL: AXOLOTL,
}
_CACHES = {
    training_pb2.ALLOCATOR_CACHE_KEPT: "kept",
    training_pb2.ALLOCATOR_CACHE_EMPTIED: "emptied",
    training_pb2.ALLOCATOR_CACHE_EXPANDABLE: "expandable",
}
_LAYERS = {
    training_pb2.LAYER_KERNELS_PLAIN: "",
    training_pb2.LAYER_KERNELS_FUSED_NORMS: "norms",
    training_pb2.LAYER_KERNELS_FUSED: "all",
}
_WITH_LIGER = (training_pb2.TRAINING_PROGRAM_TRANSFORMERS, training_pb2.TRAINING_PROGRAM_AXOLOTL)
"""Programs whose fused loss is Liger's."""
_IN_TURN = {training_pb2.EXPERT_PRODUCTS_GROUPED: False, training_pb2.EXPERT_PRODUCTS_IN_TURN: True}
_WORKER_CACHES = (training_pb2.ALLOCATOR_CACHE_UNSPECIFIED, training_pb2.ALLOCATOR_CACHE_EXPANDABLE)
_WORKER_LIBRARIES = (training_pb2.SHARDING_LIBRARY_UNSPECIFIED, training_pb2.SHARDING_LIBRARY_FSDP2)

_WORKER_LAYERS = (training_pb2.LAYER_KERNELS_UNSPECIFIED, training_pb2.LAYER_KERNELS_PLAIN)


class NumberSizes(NamedTuple):
    """Bytes per number."""

    weight: int
    """Of base weights as stored on the device."""
    compute: int
    """Of activations."""
    master: int
    """Of trained weights, gradients and optimizer moments."""


def is_fp32(spec: run_spec_pb2.RunSpec) -> bool:
    """Whether everything is computed in float32."""
    return spec.precision == training_pb2.PRECISION_FP32


def device_count(spec: run_spec_pb2.RunSpec) -> int:
    """Number of devices; 1 where the spec gives none."""
    return max(1, spec.hardware.count)


def network_bandwidth(hardware: hardware_pb2.Hardware, device: Device) -> float:
    """Bytes per second that one machine passes to another; what a usual machine does where nothing is said."""
    gbits = hardware.network_gbits_per_second or device.network_gbits
    return c.NETWORK_SHARE * gbits * 1e9 / 8


def number_sizes(spec: run_spec_pb2.RunSpec, program: Program, *, trains_base: bool) -> NumberSizes:
    """Bytes per number of weights, activations and trained parameters."""
    if is_fp32(spec):
        return NumberSizes(4, 4, 4)
    devices = device_count(spec)
    bf16 = spec.precision == training_pb2.PRECISION_BF16
    sharding = SHARDINGS[spec.hardware.sharding]
    if trains_base and bf16:
        float32_master = program.casts_module or (program.sharded_master and devices > 1)
        return _master_sizes(program, sharding, devices) if float32_master else NumberSizes(2, 2, 2)
    if trains_base and devices > 1 and sharding == "full":
        return _master_sizes(program, sharding, devices)
    # Adapters are float32 for every base precision (PEFT's autocast_adapter_dtype, and the worker's rule).
    frozen_mixed = not trains_base and not bf16
    return NumberSizes(program.mixed_base_bytes if frozen_mixed else 2, 2, 4)


def _master_sizes(program: Program, sharding: str, devices: int) -> NumberSizes:
    """Bytes per number of a fully trained model whose shards are float32.

    FSDP gathers 16-bit weights from them and keeps none. DeepSpeed keeps 16-bit weights in addition, also on a single
    device, whose shard is the whole model (single_partition_of_fp32_groups).
    """
    if program.casts_module and (devices == 1 or sharding in ("gradients", "full")):
        return NumberSizes(2, 2, 4)
    return NumberSizes(4, 2, 4) if sharding == "full" else NumberSizes(2, 2, 2)


def training_program(spec: run_spec_pb2.RunSpec) -> Program:
    """Look up the training program and apply the spec's options to it.

    Raises InvalidArgument for options that finetree's worker does not have.
    """
    wanted = spec.program
    program = _PROGRAMS[wanted.program]
    if program is FINETREE:
        _require_worker(wanted)
    kept = wanted.sharding_library in (
        training_pb2.SHARDING_LIBRARY_UNSPECIFIED,
        training_pb2.SHARDING_LIBRARY_FSDP,
    )
    used = variant(
        program,
        compiled=wanted.compile,
        frozen_kept=kept,
        cache=_CACHES.get(wanted.allocator_cache, ""),
        casts_module=wanted.sharding_library == training_pb2.SHARDING_LIBRARY_DEEPSPEED,
        experts_in_turn=_IN_TURN.get(wanted.experts),
        layers=_fused_layers(spec),
    )
    # The chunked loss is TRL's, which leaves the rest of a quantized base in the precision it was loaded in.
    trl = program is TRANSFORMERS and spec.loss_kernel == training_pb2.LOSS_KERNEL_CHUNKED
    return unraised(used) if trl else used


def attends_eagerly(spec: run_spec_pb2.RunSpec, program: Program, family: str) -> bool:
    """Whether scores are computed one by one: as is said, or since the model has no other way but FlashAttention.

    transformers' GPT-OSS has sinks, which torch's attention does not know; the worker bounds Gemma 2's scores, as the
    model does, which no kernel of torch's attention does.
    """
    if spec.attention == training_pb2.ATTENTION_KERNEL_EAGER:
        return True
    if spec.attention == training_pb2.ATTENTION_KERNEL_FLASH or spec.hardware.WhichOneof("device") == "cpu":
        return False
    if family == "gpt_oss":
        return not (program.own_classes or program.windows_in_kernel)
    return family == "gemma2" and program.name == FINETREE.name


def attention_remarks(spec: run_spec_pb2.RunSpec, program: Program, family: str) -> Iterator[Remark]:
    """Remark on attention that keeps its scores although nobody asked for it."""
    if spec.attention != training_pb2.ATTENTION_KERNEL_EAGER and attends_eagerly(spec, program, family):
        text = "attention of this model keeps the scores of every head: torch's kernels know no sinks and no bounds"
        yield Remark("ATTENTION_EAGER", text, "spec.attention")


def number_format_remarks(spec: run_spec_pb2.RunSpec, rates: hardware_pb2.MatrixRates | None) -> Iterator[Remark]:
    """Remark on products in a format that was measured to be so slow on this CPU that the trainer refuses it."""
    if (problem := slow_format_problem(spec, rates)) is not None:
        yield Remark(problem.reason, f"{problem.message}; the trainer refuses such a run", f"spec.{problem.field_path}")


def _fused_layers(spec: run_spec_pb2.RunSpec) -> str:
    """Which of a layer's operations are Liger's kernels: as is said, or all where a program's fused loss is Liger's."""
    wanted = spec.program
    if wanted.layer_kernels != training_pb2.LAYER_KERNELS_UNSPECIFIED:
        # Unsloth's kernels are its own.
        own = wanted.program == training_pb2.TRAINING_PROGRAM_UNSLOTH
        return "" if own else _LAYERS[wanted.layer_kernels]
    return "all" if spec.loss_kernel == training_pb2.LOSS_KERNEL_FUSED and wanted.program in _WITH_LIGER else ""


def _require_worker(wanted: training_pb2.ProgramSettings) -> None:
    """Raise InvalidArgument for options that finetree's worker does not have."""
    if wanted.compile:
        text = "finetree's worker does not compile; leave it unset, or name another program"
        raise invalid_field("spec.program.compile", text)
    if wanted.allocator_cache not in _WORKER_CACHES:
        text = "finetree's worker uses expandable segments; leave it unset, or name another program"
        raise invalid_field("spec.program.allocator_cache", text)
    if wanted.sharding_library not in _WORKER_LIBRARIES:
        text = "finetree's worker uses fully_shard; set SHARDING_LIBRARY_FSDP2, or name another program"
        raise invalid_field("spec.program.sharding_library", text)
    if wanted.layer_kernels not in _WORKER_LAYERS:
        text = "finetree's worker has no fused kernels; leave it unset, or name another program"
        raise invalid_field("spec.program.layer_kernels", text)
    if wanted.experts == training_pb2.EXPERT_PRODUCTS_IN_TURN:
        text = "finetree's worker computes experts in grouped products; leave it unset, or name another program"
        raise invalid_field("spec.program.experts", text)


def training_rows(
    spec: run_spec_pb2.RunSpec, profile: training_data_pb2.DatasetProfile | None, sequence_length: int
) -> Rows | None:
    """Training rows, truncated at a sequence length in tokens; None where their number is unknown."""
    if profile is None or profile.examples == 0:
        return None
    share = 1.0 - _split_fraction(spec.evaluation)
    return _rows(spec, profile, sequence_length, share=share)


def held_out_rows(
    request: estimate_pb2.EstimateRunRequest,
    spec: run_spec_pb2.RunSpec,
    profile: training_data_pb2.DatasetProfile | None,
) -> Rows | None:
    """Held-out rows of the evaluation; None where there are none or their number is unknown."""
    length = spec.training.sequence_length
    if request.HasField("evaluation_profile"):
        return _rows(spec, request.evaluation_profile, length)
    dataset = spec.evaluation.dataset
    if dataset.WhichOneof("source") == "profile":
        return _rows(spec, dataset.profile, length)
    fraction = _split_fraction(spec.evaluation)
    return _rows(spec, profile, length, share=fraction) if fraction > 0 and profile is not None else None


def evaluation_plan(wanted: training_pb2.Evaluation, rows: Rows | None, steps: int) -> EvaluationPlan:
    """Plan the evaluations of a run of `steps` optimizer steps."""
    return EvaluationPlan(
        rows=rows,
        generate=training_pb2.METRIC_EXACT_MATCH in wanted.metrics,
        max_new_tokens=wanted.max_new_tokens,
        before=1 if wanted.before_training else 0,
        during=(steps - 1) // wanted.every_steps if wanted.every_steps and steps else 0,
        after=1 if wanted.metrics else 0,
        generate_during=wanted.best_by == training_pb2.METRIC_EXACT_MATCH,
    )


def _split_fraction(wanted: training_pb2.Evaluation) -> float:
    """Share of the training rows that is held out; 0 where the spec names a dataset to evaluate on."""
    return 0.0 if wanted.HasField("dataset") else wanted.split_fraction


def _rows(
    spec: run_spec_pb2.RunSpec, profile: training_data_pb2.DatasetProfile, sequence_length: int, *, share: float = 1.0
) -> Rows:
    learns_all = spec.training.loss_tokens == training_pb2.LOSS_TOKENS_ALL
    return rows_of(profile, sequence_length=sequence_length, learns_all=learns_all, share=share)
