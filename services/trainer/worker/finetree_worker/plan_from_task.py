# SPDX-License-Identifier: Apache-2.0
"""From a task of the contract to the core's plan: every setting is either honoured or refused by name."""

from pathlib import Path
from typing import Any, Literal

from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.contract import reading_of

from finetree_worker import choices, plan
from finetree_worker.errors import PlanError

ARTIFACT_FOLDERS = {"lora": "adapter", "qlora": "adapter", "prefix": "adapter", "adapter": "adapter", "full": "model"}
"""Id of the artifact that each method makes."""
PREVIEW_FOLDER = "preview"
"""Id of the artifact that a report leaves: the rows that a preview shows."""
REPORT_LENGTH = 1 << 24
"""Sequence length of a report when the spec has none: the longest that a spec may have, so that nothing is cut."""


def train_plan(task: worker_pb2.Task) -> plan.TrainPlan:
    """The run that a task asks for.

    Raises PlanError: UNSUPPORTED_METHOD, UNSUPPORTED_SETTING, UNRESOLVED_SPEC, or the reason that the trainer gives for
    settings that contradict each other.
    """
    spec = task.spec
    choices.chosen(spec, "loss_kernel", choices.LOSS_KERNELS)
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
            loss_on=choices.chosen(training, "loss_tokens", choices.LOSS_ON, "training."),
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
            raise choices.unresolved("method")
        case other:
            raise PlanError(
                "UNSUPPORTED_METHOD",
                f"This worker cannot train with the method {other}.",
                field=other,
                remedy=f"Use one of {', '.join(sorted(ARTIFACT_FOLDERS))}.",
            )


def _qlora(qlora: method_pb2.Qlora) -> plan.QloraMethod:
    return plan.QloraMethod(
        lora=_lora(qlora.lora, "qlora.lora"),
        quantization=choices.chosen(qlora, "quantization", choices.QUANTIZATIONS, "qlora."),
        double_quantization=not qlora.HasField("double_quantization") or qlora.double_quantization,
    )


def _prefix(spec: run_spec_pb2.RunSpec) -> plan.PrefixMethod:
    if choices.chosen(spec, "gradient_checkpointing", choices.CHECKPOINTING):
        raise PlanError(
            "PREFIX_WITH_CHECKPOINTING",
            "Prefix tuning keeps its keys and values in the cache that checkpointing drops.",
            field="gradient_checkpointing",
            remedy="Turn gradient checkpointing off.",
        )
    default = plan.PrefixMethod()
    return plan.PrefixMethod(
        virtual_tokens=spec.prefix.virtual_tokens or default.virtual_tokens,
        init=choices.chosen(spec.prefix, "init", choices.PREFIX_INITS, "prefix."),
        init_text=spec.prefix.init_text,
    )


def _adapter(adapter: method_pb2.AdapterLayers) -> plan.AdapterMethod:
    size = adapter.bottleneck_size or plan.AdapterMethod().bottleneck_size
    return plan.AdapterMethod(size, choices.chosen(adapter, "placement", choices.PLACEMENTS, "adapter."))


def _lora(lora: method_pb2.Lora, path: str) -> plan.LoraMethod:
    if lora.include_experts:
        _require_experts(lora, path)
    default = plan.LoraMethod()
    return plan.LoraMethod(
        rank=lora.rank if lora.HasField("rank") else default.rank,
        alpha=lora.alpha if lora.HasField("alpha") else default.alpha,
        dropout=lora.dropout if lora.HasField("dropout") or lora.include_experts else default.dropout,
        targets=choices.chosen(lora, "targets", choices.TARGETS, f"{path}."),
        modules=tuple(lora.target_modules),
        rank_stabilized=lora.rank_stabilized,
        weight_decomposed=lora.weight_decomposed,
        experts=lora.include_experts,
    )


def _require_experts(lora: method_pb2.Lora, path: str) -> None:
    """Adapters of experts are products of stacked matrices, which leave no place for dropout, DoRA or a packed base."""
    if path != "lora":
        raise choices.unsupported(f"{path}.include_experts", "true")
    if lora.weight_decomposed:
        text = "DoRA scales the rows of a linear layer, and the experts of a mixture are stacked parameters."
        raise PlanError("EXPERTS_WITH_DORA", text, field=f"{path}.weight_decomposed", remedy="Turn one of them off.")
    if lora.dropout > 0:
        text = "Adapters of experts are added to the weights, where no input is left to drop out."
        raise PlanError("EXPERTS_WITH_DROPOUT", text, field=f"{path}.dropout", remedy="Set it to 0.")


def _optimization(spec: run_spec_pb2.RunSpec) -> plan.Optimization:
    training = spec.training
    for field in ("learning_rate", "effective_batch_size", "micro_batch_size", "sequence_length", "length"):
        if not training.HasField(field):
            raise choices.unresolved(f"training.{field}")
    return plan.Optimization(
        learning_rate=training.learning_rate,
        batch_size=training.effective_batch_size,
        micro_batch_size=training.micro_batch_size,
        sequence_length=training.sequence_length,
        epochs=training.epochs if training.HasField("epochs") else None,
        max_steps=training.max_steps if training.HasField("max_steps") else None,
        schedule=choices.chosen(training, "schedule", choices.SCHEDULES, "training."),
        packing=training.packing != training_pb2.PACKING_OFF,
        loss_on=choices.chosen(training, "loss_tokens", choices.LOSS_ON, "training."),
        seed=training.seed,
        precision=choices.chosen(spec, "precision", choices.PRECISIONS),
        optimizer=choices.chosen(spec, "optimizer", choices.OPTIMIZERS),
        gradient_checkpointing=choices.chosen(spec, "gradient_checkpointing", choices.CHECKPOINTING),
        attention=choices.chosen(spec, "attention", choices.ATTENTION),
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
        metrics=tuple(choices.METRICS[metric] for metric in evaluation.metrics if metric in choices.METRICS),
        max_new_tokens=evaluation.max_new_tokens or plan.EvaluationPlan().max_new_tokens,
        samples=evaluation.samples,
        before_training=evaluation.before_training,
        every_steps=evaluation.every_steps,
        early_stopping_patience=evaluation.early_stopping_patience,
        early_stopping_min_delta=evaluation.early_stopping_min_delta,
        best_by=choices.METRICS.get(evaluation.best_by, plan.Metric.LOSS),
    )
