# SPDX-License-Identifier: Apache-2.0
"""From a request to the run that the formulas see: defaults filled in, names looked up, contradictions refused."""

from dataclasses import dataclass, replace

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.errors import InvalidArgument, invalid_field
from finetree_runtime.plan import combination_problem, optimizer_steps, resolved_spec, sequence_problem, spec_profile

from finetree_estimator import rows
from finetree_estimator.accelerators import AcceleratorEntry
from finetree_estimator.factors import UNCORRECTED, Correction
from finetree_estimator.lookups import Knowledge, read_correction, read_device, read_model, read_payment
from finetree_estimator.methods import (
    Bottleneck,
    Full,
    LoraAdapters,
    Method,
    Prefix,
    QuantizedLora,
    UnknownTargetError,
    preset_targets,
    target_linears,
)
from finetree_estimator.programs import FINETREE, LITGPT, LLM_FOUNDRY, TORCHTUNE, TRANSFORMERS, UNSLOTH
from finetree_estimator.run import EvaluationPlan, Rows, Run
from finetree_estimator.shapes import Shape

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
PRESET_NAMES = {
    rs.TARGET_PRESET_ALL_LINEAR: "all-linear",
    rs.TARGET_PRESET_ATTENTION: "attention",
    rs.TARGET_PRESET_QUERY_VALUE: "query-value",
    rs.TARGET_PRESET_MLP: "mlp",
}
PROGRAM_NAMES = {
    pb.TRAINING_PROGRAM_UNSPECIFIED: FINETREE,
    pb.TRAINING_PROGRAM_FINETREE: FINETREE,
    pb.TRAINING_PROGRAM_TRANSFORMERS: TRANSFORMERS,
    pb.TRAINING_PROGRAM_LITGPT: LITGPT,
    pb.TRAINING_PROGRAM_TORCHTUNE: TORCHTUNE,
    pb.TRAINING_PROGRAM_UNSLOTH: UNSLOTH,
    pb.TRAINING_PROGRAM_LLM_FOUNDRY: LLM_FOUNDRY,
}
SHARDINGS = {
    rs.SHARDING_UNSPECIFIED: "replicated",
    rs.SHARDING_REPLICATED: "replicated",
    rs.SHARDING_OPTIMIZER: "optimizer",
    rs.SHARDING_GRADIENTS: "gradients",
    rs.SHARDING_FULL: "full",
}
_ADAPTER_PLACES = {rs.ADAPTER_PLACEMENT_HOULSBY: 2}


@dataclass(frozen=True, slots=True)
class Reading:
    """A request understood."""

    run: Run
    spec: rs.RunSpec
    """The resolved spec."""
    profile: rs.DatasetProfile | None
    """What is known of the data."""


def read(request: pb.EstimateRunRequest, knowledge: Knowledge) -> Reading:
    """Understand a request. Raises InvalidArgument and NotFound with the reasons that the rpc documents."""
    _require(request.spec)
    profile = request.dataset_profile if request.HasField("dataset_profile") else spec_profile(request.spec)
    model = read_model(request.spec.model, knowledge)
    shape = model.shape
    spec = resolved_spec(request.spec, profile=profile, positions=shape.max_positions)
    problem = combination_problem(spec) or sequence_problem(spec, shape.max_positions)
    if problem is not None:
        path = f"spec.{problem.field_path}"
        raise InvalidArgument(problem.reason, f"{path}: {problem.message}", violations=[(path, problem.message)])
    method = read_method(spec, shape)
    training = spec.training
    data = training_rows(spec, profile)
    steps = optimizer_steps(spec, data.count) if data is not None else 0
    weight, compute, master = _sizes(request, spec, full=isinstance(method, Full))
    checkpointing = spec.gradient_checkpointing
    run = Run(
        shape=shape,
        method=method,
        device=read_device(spec.hardware, fp32=spec.precision == rs.PRECISION_FP32),
        devices=max(1, spec.hardware.count),
        micro_batch=training.micro_batch_size,
        batch=training.effective_batch_size,
        sequence_length=training.sequence_length,
        packing=training.packing == rs.PACKING_ON,
        rows=data,
        steps=steps,
        weight_bytes=weight,
        compute_bytes=compute,
        master_bytes=master,
        optimizer=OPTIMIZERS[spec.optimizer],
        checkpointing=checkpointing in (rs.GRADIENT_CHECKPOINTING_FULL, rs.GRADIENT_CHECKPOINTING_OFFLOADED),
        offloaded=checkpointing == rs.GRADIENT_CHECKPOINTING_OFFLOADED,
        eager_attention=spec.attention == rs.ATTENTION_KERNEL_EAGER,
        loss=LOSSES[spec.loss_kernel],
        evaluation=_evaluation(request, spec, profile, steps),
        checkpoints=max(0, steps - 1) // spec.checkpoints.every_steps,
        payment=read_payment(spec, knowledge.prices),
        correction=correction_of(request, spec, knowledge),
        program=PROGRAM_NAMES[request.program],
        sharding=SHARDINGS[spec.hardware.sharding],
        nodes=max(1, spec.hardware.nodes),
        optimizer_in_backward=spec.optimizer_in_backward,
        runs_per_month=request.runs_per_month,
        carbon_kg_per_kwh=request.carbon_kg_per_kwh,
        notes=model.notes,
    )
    return Reading(run, spec, profile)


def read_method(spec: rs.RunSpec, shape: Shape) -> Method:
    """The method of a resolved spec, checked against the shape. Raises InvalidArgument."""
    kind = spec.WhichOneof("method")
    if kind == "full":
        if spec.full.frozen_layers >= shape.layers:
            text = f"leaves nothing to train: the model has {shape.layers} layers"
            raise invalid_field("spec.full.frozen_layers", text)
        return Full(spec.full.frozen_layers)
    if kind == "prefix":
        return Prefix(spec.prefix.virtual_tokens)
    if kind == "adapter":
        return Bottleneck(spec.adapter.bottleneck_size, _ADAPTER_PLACES.get(spec.adapter.placement, 1))
    if kind == "lora":
        return _lora(spec.lora, shape, "spec.lora")
    stored = spec.qlora.quantization
    return QuantizedLora(
        _lora(spec.qlora.lora, shape, "spec.qlora.lora"),
        bits=8 if stored == rs.QUANTIZATION_INT8 else 4,
        double=spec.qlora.double_quantization,
        grouped=stored == rs.QUANTIZATION_GPTQ_INT4,
    )


def moved(request: pb.EstimateRunRequest, reading: Reading, knowledge: Knowledge, entry: AcceleratorEntry) -> Run:
    """The run of a request on as many accelerators of another kind, without terms of payment."""
    spec = rs.RunSpec(model=reading.spec.model, hardware=rs.Hardware(accelerator=entry.name))
    device = read_device(spec.hardware, fp32=reading.spec.precision == rs.PRECISION_FP32)
    return replace(reading.run, device=device, correction=correction_of(request, spec, knowledge), payment=None)


def correction_of(request: pb.EstimateRunRequest, spec: rs.RunSpec, knowledge: Knowledge) -> Correction:
    """What observed runs say of a resolved spec's device. Only this suite's runs are observed, and so corrected."""
    ours = request.program in (pb.TRAINING_PROGRAM_UNSPECIFIED, pb.TRAINING_PROGRAM_FINETREE)
    return read_correction(spec, knowledge.calibration) if ours and knowledge.calibration.points else UNCORRECTED


def _require(spec: rs.RunSpec) -> None:
    """What cannot be defaulted."""
    if spec.WhichOneof("method") is None:
        raise invalid_field("spec.method", "choose one of full, lora, qlora, prefix and adapter")
    if spec.hardware.WhichOneof("device") is None:
        raise invalid_field("spec.hardware", "name an accelerator, describe a CPU, or give a memory class")


def _lora(given: rs.Lora, shape: Shape, path: str) -> LoraAdapters:
    targets = tuple(given.target_modules) or _preset(given, shape, path)
    try:
        found = target_linears(shape, targets)
    except UnknownTargetError as error:
        names = ", ".join(preset_targets(shape, "all-linear", experts=True))
        text = f"the model has no linear layer {error.name!r}; it has {names}"
        raise invalid_field(f"{path}.target_modules", text) from error
    if given.weight_decomposed and any(part.routed for part in found):
        text = "does not go with adapters of experts, which are stacked parameters and no layers"
        raise invalid_field(f"{path}.weight_decomposed", text)
    return LoraAdapters(given.rank, targets, given.dropout, given.weight_decomposed)


def _preset(given: rs.Lora, shape: Shape, path: str) -> tuple[str, ...]:
    preset = PRESET_NAMES[given.targets]
    targets = preset_targets(shape, preset, experts=given.include_experts)
    if not targets:
        text = f"the preset {preset} has no module in this model, whose MLP is experts alone: set include_experts"
        raise invalid_field(f"{path}.targets", text)
    return targets


def training_rows(spec: rs.RunSpec, profile: rs.DatasetProfile | None) -> Rows | None:
    """Rows that a resolved spec trains on, cut at its sequence length; None where their number is unknown."""
    if profile is None or profile.examples == 0:
        return None
    held_out = spec.evaluation.split_fraction if not spec.evaluation.HasField("dataset") else 0.0
    return _rows(spec, profile, 1.0 - held_out)


def _rows(spec: rs.RunSpec, profile: rs.DatasetProfile, share: float) -> Rows:
    learns_all = spec.training.loss_tokens == rs.LOSS_TOKENS_ALL
    length = spec.training.sequence_length
    return rows.from_profile(profile, sequence_length=length, learns_all=learns_all, share=share)


def _evaluation(
    request: pb.EstimateRunRequest, spec: rs.RunSpec, profile: rs.DatasetProfile | None, steps: int
) -> EvaluationPlan:
    wanted = spec.evaluation
    held_out: Rows | None = None
    if request.HasField("evaluation_profile"):
        held_out = _rows(spec, request.evaluation_profile, 1.0)
    elif wanted.dataset.WhichOneof("source") == "profile":
        held_out = _rows(spec, wanted.dataset.profile, 1.0)
    elif wanted.split_fraction > 0 and profile is not None and not wanted.HasField("dataset"):
        held_out = _rows(spec, profile, wanted.split_fraction)
    during = (steps - 1) // wanted.every_steps if wanted.every_steps and steps else 0
    return EvaluationPlan(
        rows=held_out,
        generate=rs.METRIC_EXACT_MATCH in wanted.metrics,
        max_new_tokens=wanted.max_new_tokens,
        before=1 if wanted.before_training else 0,
        during=during,
        after=1 if wanted.metrics else 0,
        generate_during=wanted.best_by == rs.METRIC_EXACT_MATCH,
    )


def _sizes(request: pb.EstimateRunRequest, spec: rs.RunSpec, *, full: bool) -> tuple[int, int, int]:
    """Bytes of base weights, activations, and trained weights with their gradients and moments."""
    program = PROGRAM_NAMES[request.program]
    if spec.precision == rs.PRECISION_FP32:
        return 4, 4, 4
    if full and spec.precision == rs.PRECISION_BF16:
        sharded = spec.hardware.sharding == rs.SHARDING_FULL and spec.hardware.count > 1
        return (4, 2, 4) if sharded and program.sharded_master else (2, 2, 2)
    # Adapters are float32 whatever the base is (PEFT's autocast_adapter_dtype, and the worker's rule).
    frozen_mixed = not full and spec.precision != rs.PRECISION_BF16
    return program.mixed_base_bytes if frozen_mixed else 2, 2, 4
