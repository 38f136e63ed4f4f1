# SPDX-License-Identifier: Apache-2.0
"""Settings of a resolved RunSpec as the formulas' plain values."""

from typing import NamedTuple

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.errors import invalid_field

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
from finetree_estimator.run import EvaluationPlan, Rows
from finetree_estimator.spec.row_lengths import rows_of

OPTIMIZERS = {
    rs.OPTIMIZER_ADAMW: "adamw",
    rs.OPTIMIZER_ADAMW_8BIT: "adamw-8bit",
    rs.OPTIMIZER_PAGED_ADAMW_8BIT: "paged-adamw-8bit",
    rs.OPTIMIZER_ADAFACTOR: "adafactor",
    rs.OPTIMIZER_SGD: "sgd",
}
LOSSES = {
    rs.LOSS_KERNEL_FULL_LOGITS: "full-logits",
    rs.LOSS_KERNEL_CHUNKED: "chunked",
    rs.LOSS_KERNEL_FUSED: "fused",
    rs.LOSS_KERNEL_COMPLETION_ONLY: "completion-only",
}
SHARDINGS = {
    rs.SHARDING_UNSPECIFIED: "replicated",
    rs.SHARDING_REPLICATED: "replicated",
    rs.SHARDING_OPTIMIZER: "optimizer",
    rs.SHARDING_GRADIENTS: "gradients",
    rs.SHARDING_FULL: "full",
}
_PROGRAMS = {
    pb.TRAINING_PROGRAM_UNSPECIFIED: FINETREE,
    pb.TRAINING_PROGRAM_FINETREE: FINETREE,
    pb.TRAINING_PROGRAM_TRANSFORMERS: TRANSFORMERS,
    pb.TRAINING_PROGRAM_LITGPT: LITGPT,
    pb.TRAINING_PROGRAM_TORCHTUNE: TORCHTUNE,
    pb.TRAINING_PROGRAM_UNSLOTH: UNSLOTH,
    pb.TRAINING_PROGRAM_LLM_FOUNDRY: LLM_FOUNDRY,
    pb.TRAINING_PROGRAM_PYTORCH: PYTORCH,
    pb.TRAINING_PROGRAM_AXOLOTL: AXOLOTL,
}
_CACHES = {
    pb.ALLOCATOR_CACHE_KEPT: "kept",
    pb.ALLOCATOR_CACHE_EMPTIED: "emptied",
    pb.ALLOCATOR_CACHE_EXPANDABLE: "expandable",
}
_WORKER_CACHES = (pb.ALLOCATOR_CACHE_UNSPECIFIED, pb.ALLOCATOR_CACHE_EXPANDABLE)
_WORKER_LIBRARIES = (pb.SHARDING_LIBRARY_UNSPECIFIED, pb.SHARDING_LIBRARY_FSDP2)


class NumberSizes(NamedTuple):
    """Bytes per number."""

    weight: int
    """Of base weights as stored on the device."""
    compute: int
    """Of activations."""
    master: int
    """Of trained weights, their gradients and optimizer moments."""


def is_fp32(spec: rs.RunSpec) -> bool:
    """Whether everything is computed in float32."""
    return spec.precision == rs.PRECISION_FP32


def device_count(spec: rs.RunSpec) -> int:
    """Devices that a run has; one where the spec does not say."""
    return max(1, spec.hardware.count)


def number_sizes(spec: rs.RunSpec, program: Program) -> NumberSizes:
    """Bytes per number of weights, activations and what is trained."""
    if is_fp32(spec):
        return NumberSizes(4, 4, 4)
    full, devices = spec.WhichOneof("method") == "full", device_count(spec)
    bf16 = spec.precision == rs.PRECISION_BF16
    sharding = SHARDINGS[spec.hardware.sharding]
    if full and bf16:
        float32_master = program.casts_module or (program.sharded_master and devices > 1)
        return _master_sizes(program, sharding, devices) if float32_master else NumberSizes(2, 2, 2)
    if full and devices > 1 and sharding == "full":
        return _master_sizes(program, sharding, devices)
    # Adapters are float32 whatever the base is (PEFT's autocast_adapter_dtype, and the worker's rule).
    frozen_mixed = not full and not bf16
    return NumberSizes(program.mixed_base_bytes if frozen_mixed else 2, 2, 4)


def _master_sizes(program: Program, sharding: str, devices: int) -> NumberSizes:
    """Bytes per number of a fully trained model whose shards are float32.

    FSDP gathers 16-bit weights from them and keeps none. DeepSpeed keeps them beside, and its engine does so on one
    device as well, whose shard is the whole (single_partition_of_fp32_groups).
    """
    if program.casts_module and (devices == 1 or sharding in ("gradients", "full")):
        return NumberSizes(2, 2, 4)
    return NumberSizes(4, 2, 4) if sharding == "full" else NumberSizes(2, 2, 2)


def training_program(request: pb.EstimateRunRequest, spec: rs.RunSpec) -> Program:
    """The program that trains, as the request uses it.

    Raises InvalidArgument where the request says of this suite's worker what it does not do.
    """
    program = _PROGRAMS[request.program]
    if program is FINETREE:
        _require_worker(request)
    kept = request.sharding_library in (pb.SHARDING_LIBRARY_UNSPECIFIED, pb.SHARDING_LIBRARY_FSDP)
    used = variant(
        program,
        compiled=request.compiled,
        frozen_kept=kept,
        cache=_CACHES.get(request.allocator_cache, ""),
        casts_module=request.sharding_library == pb.SHARDING_LIBRARY_DEEPSPEED,
    )
    # A loss in chunks is TRL's, which takes a quantized base as it was loaded.
    trl = program is TRANSFORMERS and spec.loss_kernel == rs.LOSS_KERNEL_CHUNKED
    return unraised(used) if trl else used


def _require_worker(request: pb.EstimateRunRequest) -> None:
    """Refuse what this suite's worker does not do. Raises InvalidArgument."""
    if request.compiled:
        raise invalid_field(
            "compiled", "this suite's worker runs eagerly: leave it out, or name the program that compiles"
        )
    if request.allocator_cache not in _WORKER_CACHES:
        text = "this suite's worker has segments that expand: leave it out, or name the program that trains"
        raise invalid_field("allocator_cache", text)
    if request.sharding_library not in _WORKER_LIBRARIES:
        text = "this suite's worker shards by fully_shard: take SHARDING_LIBRARY_FSDP2, or name the program that trains"
        raise invalid_field("sharding_library", text)


def training_rows(spec: rs.RunSpec, profile: rs.DatasetProfile | None, sequence_length: int) -> Rows | None:
    """Rows that a run trains on, cut at a sequence length in tokens; None where their number is unknown."""
    if profile is None or profile.examples == 0:
        return None
    share = 1.0 - _split_fraction(spec.evaluation)
    return _rows(spec, profile, sequence_length, share=share)


def held_out_rows(request: pb.EstimateRunRequest, spec: rs.RunSpec, profile: rs.DatasetProfile | None) -> Rows | None:
    """Rows that are evaluated without being trained on; None where there are none, or nothing is known of them."""
    length = spec.training.sequence_length
    if request.HasField("evaluation_profile"):
        return _rows(spec, request.evaluation_profile, length)
    dataset = spec.evaluation.dataset
    if dataset.WhichOneof("source") == "profile":
        return _rows(spec, dataset.profile, length)
    fraction = _split_fraction(spec.evaluation)
    return _rows(spec, profile, length, share=fraction) if fraction > 0 and profile is not None else None


def evaluation_plan(wanted: rs.Evaluation, rows: Rows | None, steps: int) -> EvaluationPlan:
    """Evaluations on held-out rows of a run of so many steps."""
    return EvaluationPlan(
        rows=rows,
        generate=rs.METRIC_EXACT_MATCH in wanted.metrics,
        max_new_tokens=wanted.max_new_tokens,
        before=1 if wanted.before_training else 0,
        during=(steps - 1) // wanted.every_steps if wanted.every_steps and steps else 0,
        after=1 if wanted.metrics else 0,
        generate_during=wanted.best_by == rs.METRIC_EXACT_MATCH,
    )


def _split_fraction(wanted: rs.Evaluation) -> float:
    """Share of the training rows that is held out; none where the spec names a dataset to evaluate on."""
    return 0.0 if wanted.HasField("dataset") else wanted.split_fraction


def _rows(spec: rs.RunSpec, profile: rs.DatasetProfile, sequence_length: int, *, share: float = 1.0) -> Rows:
    learns_all = spec.training.loss_tokens == rs.LOSS_TOKENS_ALL
    return rows_of(profile, sequence_length=sequence_length, learns_all=learns_all, share=share)
