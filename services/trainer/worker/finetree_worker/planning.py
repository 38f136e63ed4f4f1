# SPDX-License-Identifier: Apache-2.0
"""From a task of the contract to the core's plan: every setting is either honoured or refused by name."""

from pathlib import Path
from typing import Any, Literal

from finetree_api.trainer.v1 import worker_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_data.contract import reading_of

from finetree_worker import plan
from finetree_worker.errors import PlanError

ARTIFACT_FOLDERS = {"lora": "adapter", "qlora": "adapter", "prefix": "adapter", "adapter": "adapter", "full": "model"}
"""Id of the artifact that each method makes."""
PREVIEW_FOLDER = "preview"
"""Id of the artifact that a report leaves: the rows that a preview shows."""
REPORT_LENGTH = 1 << 24
"""Sequence length of a report when the spec has none: the longest that a spec may have, so that nothing is cut."""

_TARGETS = {
    run_spec_pb2.TARGET_PRESET_UNSPECIFIED: plan.Targets.ALL_LINEAR,
    run_spec_pb2.TARGET_PRESET_ALL_LINEAR: plan.Targets.ALL_LINEAR,
    run_spec_pb2.TARGET_PRESET_ATTENTION: plan.Targets.ATTENTION,
    run_spec_pb2.TARGET_PRESET_QUERY_VALUE: plan.Targets.QUERY_VALUE,
    run_spec_pb2.TARGET_PRESET_MLP: plan.Targets.MLP,
}
_QUANTIZATIONS = {
    run_spec_pb2.QUANTIZATION_UNSPECIFIED: plan.Quantization.NF4,
    run_spec_pb2.QUANTIZATION_NF4: plan.Quantization.NF4,
    run_spec_pb2.QUANTIZATION_FP4: plan.Quantization.FP4,
    run_spec_pb2.QUANTIZATION_INT8: plan.Quantization.INT8,
}
_PLACEMENTS = {
    run_spec_pb2.ADAPTER_PLACEMENT_UNSPECIFIED: plan.Placement.PFEIFFER,
    run_spec_pb2.ADAPTER_PLACEMENT_PFEIFFER: plan.Placement.PFEIFFER,
    run_spec_pb2.ADAPTER_PLACEMENT_HOULSBY: plan.Placement.HOULSBY,
    run_spec_pb2.ADAPTER_PLACEMENT_PARALLEL: plan.Placement.PARALLEL,
}
_SCHEDULES = {
    run_spec_pb2.SCHEDULE_UNSPECIFIED: plan.Schedule.COSINE,
    run_spec_pb2.SCHEDULE_COSINE: plan.Schedule.COSINE,
    run_spec_pb2.SCHEDULE_LINEAR: plan.Schedule.LINEAR,
    run_spec_pb2.SCHEDULE_CONSTANT: plan.Schedule.CONSTANT,
}
_LOSS_ON = {
    run_spec_pb2.LOSS_TOKENS_UNSPECIFIED: plan.LossOn.COMPLETIONS,
    run_spec_pb2.LOSS_TOKENS_COMPLETIONS: plan.LossOn.COMPLETIONS,
    run_spec_pb2.LOSS_TOKENS_ALL: plan.LossOn.ALL,
    run_spec_pb2.LOSS_TOKENS_LAST_COMPLETION: plan.LossOn.LAST_COMPLETION,
}
_PRECISIONS = {
    run_spec_pb2.PRECISION_UNSPECIFIED: plan.Precision.BF16,
    run_spec_pb2.PRECISION_BF16: plan.Precision.BF16,
    run_spec_pb2.PRECISION_BF16_MIXED: plan.Precision.BF16_MIXED,
    run_spec_pb2.PRECISION_FP16_MIXED: plan.Precision.FP16_MIXED,
    run_spec_pb2.PRECISION_FP32: plan.Precision.FP32,
}
_OPTIMIZERS = {
    run_spec_pb2.OPTIMIZER_UNSPECIFIED: plan.OptimizerName.ADAMW,
    run_spec_pb2.OPTIMIZER_ADAMW: plan.OptimizerName.ADAMW,
    run_spec_pb2.OPTIMIZER_ADAMW_8BIT: plan.OptimizerName.ADAMW_8BIT,
    run_spec_pb2.OPTIMIZER_PAGED_ADAMW_8BIT: plan.OptimizerName.PAGED_ADAMW_8BIT,
    run_spec_pb2.OPTIMIZER_SGD: plan.OptimizerName.SGD,
}
_CHECKPOINTING = {
    run_spec_pb2.GRADIENT_CHECKPOINTING_UNSPECIFIED: False,
    run_spec_pb2.GRADIENT_CHECKPOINTING_OFF: False,
    run_spec_pb2.GRADIENT_CHECKPOINTING_FULL: True,
}
_ATTENTION = {
    run_spec_pb2.ATTENTION_KERNEL_UNSPECIFIED: plan.Attention.SDPA,
    run_spec_pb2.ATTENTION_KERNEL_SDPA: plan.Attention.SDPA,
    run_spec_pb2.ATTENTION_KERNEL_EAGER: plan.Attention.EAGER,
}
_PREFIX_INITS = {
    run_spec_pb2.PREFIX_INIT_UNSPECIFIED: plan.PrefixInit.TEXT,
    run_spec_pb2.PREFIX_INIT_TEXT: plan.PrefixInit.TEXT,
    run_spec_pb2.PREFIX_INIT_ZERO: plan.PrefixInit.ZERO,
}
_LOSS_KERNELS = {run_spec_pb2.LOSS_KERNEL_UNSPECIFIED: None, run_spec_pb2.LOSS_KERNEL_COMPLETION_ONLY: None}
_METRICS = {
    run_spec_pb2.METRIC_LOSS: plan.Metric.LOSS,
    run_spec_pb2.METRIC_EXACT_MATCH: plan.Metric.EXACT_MATCH,
    run_spec_pb2.METRIC_TOKEN_ACCURACY: plan.Metric.TOKEN_ACCURACY,
}


def train_plan(task: worker_pb2.Task) -> plan.TrainPlan:
    """The run that a task asks for.

    Raises PlanError: UNSUPPORTED_METHOD, UNSUPPORTED_SETTING, UNRESOLVED_SPEC, or the reason that the trainer gives for
    settings that contradict each other.
    """
    spec = task.spec
    _choice(spec, "loss_kernel", _LOSS_KERNELS)
    method = _method(spec)
    folder = Path(task.model_dir)
    return plan.TrainPlan(
        base=plan.BaseModel(folder, task.base_hub_id, task.base_hub_revision),
        dataset=Path(task.dataset_file),
        method=method,
        optimization=_optimization(spec),
        work=Path(task.work_dir),
        artifact=free_artifact_folder(Path(task.artifact_dir), ARTIFACT_FOLDERS[method.kind], task.attempt),
        evaluation=_evaluation(task),
        checkpoints=_checkpoints(task),
        device=_device(task.device),
        threads=max(1, task.threads),
        plan_digest=task.plan_digest,
        checkpoint_folder=Path(task.checkpoint_dir) if task.checkpoint_dir else None,
        token_cache=Path(task.token_cache_dir) if task.token_cache_dir else None,
        token_cache_bytes=task.token_cache_bytes,
        reading=reading_of(task.spec.dataset),
    )


def report_plan(task: worker_pb2.Task) -> plan.TrainPlan:
    """What a report on a dataset needs of a run; what the spec leaves out does not touch a report.

    Raises PlanError: UNSUPPORTED_SETTING.
    """
    training = task.spec.training
    return plan.TrainPlan(
        base=plan.BaseModel(Path(task.model_dir)),
        dataset=Path(task.dataset_file),
        method=plan.LoraMethod(),
        optimization=plan.Optimization(
            learning_rate=0.0,
            batch_size=1,
            micro_batch_size=1,
            sequence_length=training.sequence_length or REPORT_LENGTH,
            loss_on=_choice(training, "loss_tokens", _LOSS_ON, "training."),
            seed=training.seed,
        ),
        work=Path(task.work_dir),
        artifact=free_artifact_folder(Path(task.artifact_dir), PREVIEW_FOLDER, task.attempt),
        evaluation=_evaluation(task),
        token_cache=Path(task.token_cache_dir) if task.token_cache_dir else None,
        token_cache_bytes=task.token_cache_bytes,
        reading=reading_of(task.spec.dataset),
    )


def free_artifact_folder(parent: Path, name: str, attempt: int) -> Path:
    """Where this attempt's artifact goes: never where another attempt has put one."""
    return parent / name if not (parent / name).exists() else parent / f"{name}-{attempt}"


def _device(device: str) -> Literal["cpu", "cuda"]:
    return "cuda" if device.startswith("cuda") else "cpu"


def _choice(message: Any, field: str, choices: dict[Any, Any], prefix: str = "") -> Any:
    value = getattr(message, field)
    if value in choices:
        return choices[value]
    known = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    raise _unsupported(prefix + field, known[value].name if value in known else str(value))


def _unsupported(field: str, value: str) -> PlanError:
    return PlanError(
        "UNSUPPORTED_SETTING",
        f"This worker cannot train with {field} {value}.",
        field=field,
        remedy="Leave the field out to get a value that it can.",
    )


def _method(spec: run_spec_pb2.RunSpec) -> plan.Method:
    match spec.WhichOneof("method"):
        case "full":
            return plan.FullMethod(spec.full.frozen_layers)
        case "lora":
            return _lora(spec.lora, "lora")
        case "qlora":
            return _qlora(spec.qlora)
        case "prefix":
            return _prefix(spec)
        case "adapter":
            return _adapter(spec.adapter)
        case None:
            raise _unresolved("method")
        case other:
            raise PlanError(
                "UNSUPPORTED_METHOD",
                f"This worker cannot train with the method {other}.",
                field=other,
                remedy=f"Use one of {', '.join(sorted(ARTIFACT_FOLDERS))}.",
            )


def _qlora(qlora: run_spec_pb2.Qlora) -> plan.QloraMethod:
    return plan.QloraMethod(
        lora=_lora(qlora.lora, "qlora.lora"),
        quantization=_choice(qlora, "quantization", _QUANTIZATIONS, "qlora."),
        double_quantization=not qlora.HasField("double_quantization") or qlora.double_quantization,
    )


def _prefix(spec: run_spec_pb2.RunSpec) -> plan.PrefixMethod:
    if _choice(spec, "gradient_checkpointing", _CHECKPOINTING):
        raise PlanError(
            "PREFIX_WITH_CHECKPOINTING",
            "Prefix tuning keeps its keys and values in the cache that checkpointing drops.",
            field="gradient_checkpointing",
            remedy="Turn gradient checkpointing off.",
        )
    default = plan.PrefixMethod()
    return plan.PrefixMethod(
        virtual_tokens=spec.prefix.virtual_tokens or default.virtual_tokens,
        init=_choice(spec.prefix, "init", _PREFIX_INITS, "prefix."),
        init_text=spec.prefix.init_text,
    )


def _adapter(adapter: run_spec_pb2.AdapterLayers) -> plan.AdapterMethod:
    size = adapter.bottleneck_size or plan.AdapterMethod().bottleneck_size
    return plan.AdapterMethod(size, _choice(adapter, "placement", _PLACEMENTS, "adapter."))


def _lora(lora: run_spec_pb2.Lora, path: str) -> plan.LoraMethod:
    if lora.include_experts:
        _require_experts(lora, path)
    default = plan.LoraMethod()
    return plan.LoraMethod(
        rank=lora.rank if lora.HasField("rank") else default.rank,
        alpha=lora.alpha if lora.HasField("alpha") else default.alpha,
        dropout=lora.dropout if lora.HasField("dropout") or lora.include_experts else default.dropout,
        targets=_choice(lora, "targets", _TARGETS, f"{path}."),
        modules=tuple(lora.target_modules),
        rank_stabilized=lora.rank_stabilized,
        weight_decomposed=lora.weight_decomposed,
        experts=lora.include_experts,
    )


def _require_experts(lora: run_spec_pb2.Lora, path: str) -> None:
    """Adapters of experts are products of stacked matrices, which leave no place for dropout, DoRA or a packed base."""
    if path != "lora":
        raise _unsupported(f"{path}.include_experts", "true")
    if lora.weight_decomposed:
        text = "DoRA scales the rows of a linear layer, and the experts of a mixture are stacked parameters."
        raise PlanError("EXPERTS_WITH_DORA", text, field=f"{path}.weight_decomposed", remedy="Turn one of them off.")
    if lora.dropout > 0:
        text = "Adapters of experts are added to the weights, where no input is left to drop out."
        raise PlanError("EXPERTS_WITH_DROPOUT", text, field=f"{path}.dropout", remedy="Set it to 0.")


def _unresolved(field: str) -> PlanError:
    return PlanError("UNRESOLVED_SPEC", f"The run says nothing of {field}.", field=field, remedy="State it.")


def _optimization(spec: run_spec_pb2.RunSpec) -> plan.Optimization:
    training = spec.training
    for field in ("learning_rate", "effective_batch_size", "micro_batch_size", "sequence_length", "length"):
        if not training.HasField(field):
            raise _unresolved(f"training.{field}")
    return plan.Optimization(
        learning_rate=training.learning_rate,
        batch_size=training.effective_batch_size,
        micro_batch_size=training.micro_batch_size,
        sequence_length=training.sequence_length,
        epochs=training.epochs if training.HasField("epochs") else None,
        max_steps=training.max_steps if training.HasField("max_steps") else None,
        schedule=_choice(training, "schedule", _SCHEDULES, "training."),
        packing=training.packing != run_spec_pb2.PACKING_OFF,
        loss_on=_choice(training, "loss_tokens", _LOSS_ON, "training."),
        seed=training.seed,
        precision=_choice(spec, "precision", _PRECISIONS),
        optimizer=_choice(spec, "optimizer", _OPTIMIZERS),
        gradient_checkpointing=_choice(spec, "gradient_checkpointing", _CHECKPOINTING),
        attention=_choice(spec, "attention", _ATTENTION),
        **_stated(training, "warmup_ratio", "weight_decay", "max_grad_norm", "non_finite_limit"),
    )


def _stated(message: Any, *fields: str) -> dict[str, Any]:
    return {field: getattr(message, field) for field in fields if message.HasField(field)}


def _checkpoints(task: worker_pb2.Task) -> plan.CheckpointPlan:
    asked, evaluation = task.spec.checkpoints, task.spec.evaluation
    held_out = bool(task.evaluation_file or evaluation.split_fraction)
    if asked.keep_best and not (evaluation.every_steps and held_out):
        raise PlanError(
            "KEEP_BEST_WITHOUT_EVALUATION",
            "No evaluation in the middle of the training could tell which checkpoint is the best.",
            field="checkpoints.keep_best",
            remedy="State evaluation.every_steps and held-out rows, or leave keep_best out.",
        )
    return plan.CheckpointPlan(asked.every_steps, asked.keep or plan.CheckpointPlan().keep, asked.keep_best)


def _evaluation(task: worker_pb2.Task) -> plan.EvaluationPlan:
    evaluation = task.spec.evaluation
    return plan.EvaluationPlan(
        dataset=Path(task.evaluation_file) if task.evaluation_file else None,
        reading=reading_of(evaluation.dataset),
        split_fraction=0.0 if task.evaluation_file else evaluation.split_fraction,
        metrics=tuple(_METRICS[metric] for metric in evaluation.metrics if metric in _METRICS),
        max_new_tokens=evaluation.max_new_tokens or plan.EvaluationPlan().max_new_tokens,
        samples=evaluation.samples,
        before_training=evaluation.before_training,
        every_steps=evaluation.every_steps,
        early_stopping_patience=evaluation.early_stopping_patience,
        early_stopping_min_delta=evaluation.early_stopping_min_delta,
        best_by=_METRICS.get(evaluation.best_by, plan.Metric.LOSS),
    )
