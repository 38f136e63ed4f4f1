# SPDX-License-Identifier: Apache-2.0
"""Plans from the contract's task messages: every setting is either used or refused by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.types.v1 import hardware_pb2, training_data_pb2, training_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.contract import reading_of

from finetree_worker import spec_values
from finetree_worker.errors import PlanError
from finetree_worker.methods import method_of
from finetree_worker.plan import (
    UNLIMITED,
    BaseModel,
    CheckpointPlan,
    DataPlan,
    EvaluationPlan,
    Expected,
    Method,
    Metric,
    Optimization,
    OptimizerName,
    Plan,
    PreparePlan,
    Price,
    Sharding,
)

ARTIFACT_FOLDERS = {artifact_pb2.ARTIFACT_KIND_ADAPTER: "adapter", artifact_pb2.ARTIFACT_KIND_MODEL: "model"}
"""Id of a training task's artifact by its kind."""
PREVIEW_FOLDER = "preview"
"""Id of the artifact of a report on a dataset: the rows that a preview shows."""


def train_plan(task: worker_pb2.Task) -> Plan:
    """Return the plan of a task that trains.

    Raises PlanError: METHOD_NOT_SUPPORTED, SETTING_NOT_SUPPORTED, UNRESOLVED_SPEC, or the reason that the trainer gives
    for settings that contradict each other.
    """
    spec, folders = task.train.spec, task.folders
    spec_values.value_of(spec, "loss_kernel", spec_values.LOSS_KERNELS)
    spec_values.value_of(spec.program, "program", spec_values.PROGRAMS, parent="program.")
    if spec.optimizer_in_backward:
        raise spec_values.not_supported("optimizer_in_backward", "true")
    method = method_of(spec)
    evaluation, devices = _evaluation(spec.evaluation), _devices(task)
    require_sharding(method, devices.sharding, _optimization(task))
    return Plan(
        base=BaseModel(Path(task.base.model_dir), task.base.hub_id, task.base.hub_revision),
        data=_training_data(task, questions=Metric.EXACT_MATCH in evaluation.metrics),
        method=method,
        optimization=_optimization(task),
        work=Path(folders.work_dir),
        artifact=free_folder(Path(folders.artifact_dir), ARTIFACT_FOLDERS[method.artifact], task.attempt),
        evaluation=evaluation,
        checkpoints=_checkpoints(task),
        device=devices.kind,
        threads=max(1, task.threads // (devices.count if devices.kind == "cpu" else 1)),
        ranks=devices.count,
        sharding=devices.sharding,
        device_ids=tuple(device_ids(task)) if devices.kind == "cuda" else (),
        job=task.job,
        attempt=task.attempt,
        attempt_reason=task.attempt_reason,
        placements=tuple(task.placements),
        plan_digest=task.plan_digest,
        checkpoint_folder=Path(folders.checkpoint_dir) if folders.checkpoint_dir else None,
        init_from=_init_from(task),
        price=Price.from_money(task.hourly_price) if task.HasField("hourly_price") else None,
        expected=_expected(task),
    )


def _expected(task: worker_pb2.Task) -> Expected:
    """Return what the run was estimated with; the matrix rates are those of the format which its products are in."""
    single = task.train.spec.precision == training_pb2.PRECISION_FP32
    rates = task.matrix_rates
    return Expected(
        step_seconds=task.step_seconds if task.HasField("step_seconds") else None,
        forward_rate=rates.fp32_flops_per_second if single else rates.bf16_flops_per_second,
        backward_rate=rates.fp32_backward_flops_per_second if single else rates.bf16_backward_flops_per_second,
    )


def _init_from(task: worker_pb2.Task) -> worker_pb2.TaskWeights | None:
    if not task.train.spec.HasField("init_from"):
        return None
    found = next((weights for weights in task.weights if weights.name == "init_from"), None)
    if found is None:
        raise spec_values.unresolved("init_from")
    return found


def prepare_plan(task: worker_pb2.Task) -> PreparePlan:
    """Return the plan of a task that prepares a model or reports on rows. Raises PlanError SETTING_NOT_SUPPORTED."""
    asked, base = task.prepare, task.base
    named = bool(base.origin or base.model_dir)
    return PreparePlan(
        job=task.job,
        model_origin=base.origin,
        base=BaseModel(Path(base.model_dir), base.hub_id, base.hub_revision) if named else None,
        data=_reported_data(task, asked) if task.dataset_file else None,
        artifact=free_folder(Path(task.folders.artifact_dir), PREVIEW_FOLDER, task.attempt),
    )


def free_folder(parent: Path, name: str, attempt: int) -> Path:
    """Return the folder for this attempt's artifact, one that no other attempt has written."""
    return parent / name if not (parent / name).exists() else parent / f"{name}-{attempt}"


def device_ids(task: worker_pb2.Task) -> list[str]:
    """Return the ids of all devices of a task, for example ["cuda:0"]."""
    return [device for placement in task.placements for device in placement.device_ids]


@dataclass(frozen=True, slots=True)
class _Devices:
    """What a training runs on: kind and number of devices, and what they divide."""

    kind: Literal["cpu", "cuda"]
    count: int
    sharding: Sharding


def _devices(task: worker_pb2.Task) -> _Devices:
    """Return what a training runs on: all GPUs of its placement, or as many processes on the CPU as the spec says.

    Raises PlanError SETTING_NOT_SUPPORTED.
    """
    hardware, named = task.train.spec.hardware, device_ids(task)
    if hardware.nodes > 1:
        raise spec_values.not_supported("hardware.nodes", str(hardware.nodes))
    on_gpu = any(device.startswith("cuda") for device in named)
    count = len(named) if on_gpu else max(1, hardware.count)
    if count == 1:
        return _Devices("cuda" if on_gpu else "cpu", 1, Sharding.REPLICATED)
    if hardware.sharding not in spec_values.SHARDINGS:
        name = hardware_pb2.Sharding.Name(hardware.sharding)
        raise PlanError(
            "SETTING_NOT_SUPPORTED",
            f"This worker cannot train with hardware.sharding {name}.",
            field="hardware.sharding",
            remedy="Use SHARDING_FULL, which divides the weights as well, or SHARDING_REPLICATED.",
        )
    return _Devices("cuda" if on_gpu else "cpu", count, spec_values.SHARDINGS[hardware.sharding])


def require_sharding(method: Method, sharding: Sharding, optimization: Optimization) -> None:
    """Raise PlanError SETTING_NOT_SUPPORTED for what cannot be divided among devices."""
    if sharding is not Sharding.FULL:
        return
    if optimization.optimizer in (OptimizerName.ADAMW_8BIT, OptimizerName.PAGED_ADAMW_8BIT):
        raise PlanError(
            "SETTING_NOT_SUPPORTED",
            "bitsandbytes' optimizers keep their 8-bit states in blocks that cannot be divided among devices.",
            field="optimizer",
            remedy="Use OPTIMIZER_ADAMW, whose states are divided by the number of devices, or SHARDING_REPLICATED.",
        )
    if method.undivided:
        raise PlanError(
            "SETTING_NOT_SUPPORTED",
            f"The base of {method.title} cannot be divided among devices: {method.undivided}.",
            field="hardware.sharding",
            remedy="Use SHARDING_REPLICATED, or a method whose base is not quantized.",
        )


def device_kind(task: worker_pb2.Task) -> Literal["cpu", "cuda"]:
    """Return the kind of device that a task trains on. Raises PlanError SETTING_NOT_SUPPORTED for several devices."""
    devices = device_ids(task)
    if len(devices) > 1:
        raise spec_values.not_supported("hardware.count", str(len(devices)))
    return "cuda" if any(device.startswith("cuda") for device in devices) else "cpu"


def _training_data(task: worker_pb2.Task, *, questions: bool) -> DataPlan:
    spec = task.train.spec
    return DataPlan(
        train=Path(task.dataset_file),
        scratch=Path(task.folders.work_dir),
        reading=reading_of(spec.dataset),
        split_fraction=0.0 if task.evaluation_file else spec.evaluation.split_fraction,
        split_seed=spec.training.seed,
        sequence_length=spec.training.sequence_length,
        loss_on=spec_values.value_of(spec.training, "loss_tokens", spec_values.LOSS_ON, parent="training."),
        append_eos=spec.training.append_eos or not spec.training.HasField("append_eos"),
        questions=questions,
        **_held_out(task, spec.evaluation.dataset),
        **_token_cache(task),
    )


def _reported_data(task: worker_pb2.Task, asked: job_pb2.PrepareTask) -> DataPlan:
    return DataPlan(
        train=Path(task.dataset_file),
        scratch=Path(task.folders.work_dir),
        reading=reading_of(asked.dataset),
        split_fraction=0.0 if task.evaluation_file else asked.split_fraction,
        split_seed=asked.seed,
        sequence_length=asked.sequence_length if asked.HasField("sequence_length") else UNLIMITED,
        loss_on=spec_values.value_of(asked, "loss_tokens", spec_values.LOSS_ON),
        append_eos=asked.append_eos or not asked.HasField("append_eos"),
        **_held_out(task, asked.evaluation_dataset),
        **_token_cache(task),
    )


def _held_out(task: worker_pb2.Task, source: training_data_pb2.DatasetSource) -> dict[str, Any]:
    if not task.evaluation_file:
        return {}
    return {"held_out": Path(task.evaluation_file), "held_out_reading": reading_of(source)}


def _token_cache(task: worker_pb2.Task) -> dict[str, Any]:
    folders = task.folders
    if not folders.token_cache_dir:
        return {}
    return {"token_cache": Path(folders.token_cache_dir), "token_cache_bytes": folders.token_cache_bytes}


def _optimization(task: worker_pb2.Task) -> Optimization:
    spec = task.train.spec
    training = spec.training
    for field in ("learning_rate", "effective_batch_size", "micro_batch_size", "sequence_length"):
        if not training.HasField(field):
            raise spec_values.unresolved(f"training.{field}")
    if training.WhichOneof("length") is None:
        raise spec_values.unresolved("training.length")
    return Optimization(
        batch_size=training.effective_batch_size,
        schedule=spec_values.value_of(training, "schedule", spec_values.SCHEDULES, parent="training."),
        packing=training.packing != training_pb2.PACKING_OFF,
        precision=spec_values.value_of(spec, "precision", spec_values.PRECISIONS),
        optimizer=spec_values.value_of(spec, "optimizer", spec_values.OPTIMIZERS),
        gradient_checkpointing=spec_values.value_of(spec, "gradient_checkpointing", spec_values.CHECKPOINTING),
        attention=spec_values.value_of(spec, "attention", spec_values.ATTENTION),
        **spec_values.stated(training, "learning_rate", "micro_batch_size", "epochs", "max_steps", "warmup_ratio"),
        **spec_values.stated(training, "weight_decay", "max_grad_norm", "seed", "non_finite_limit"),
    )


def _checkpoints(task: worker_pb2.Task) -> CheckpointPlan:
    asked, evaluation = task.train.spec.checkpoints, task.train.spec.evaluation
    held_out = bool(task.evaluation_file or evaluation.split_fraction)
    if asked.keep_best and not (evaluation.every_steps and held_out):
        raise PlanError(
            "KEEP_BEST_WITHOUT_EVALUATION",
            "keep_best needs evaluations during training, and the run has none.",
            field="checkpoints.keep_best",
            remedy="Set evaluation.every_steps and hold rows out, or leave keep_best unset.",
        )
    lost = task.max_lost_time.ToNanoseconds() / 1e9
    return CheckpointPlan(max_lost_seconds=lost, **spec_values.stated(asked, "every_steps", "keep", "keep_best"))


def _evaluation(asked: training_pb2.Evaluation) -> EvaluationPlan:
    return EvaluationPlan(
        metrics=tuple(spec_values.METRICS[metric] for metric in asked.metrics if metric in spec_values.METRICS),
        best_by=spec_values.METRICS.get(asked.best_by, Metric.LOSS),
        **spec_values.stated(asked, "max_new_tokens", "samples", "before_training", "every_steps"),
        **spec_values.stated(asked, "early_stopping_patience", "early_stopping_min_delta"),
    )
