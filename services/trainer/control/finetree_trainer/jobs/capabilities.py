# SPDX-License-Identifier: Apache-2.0
"""What the worker can run. A spec that asks for more is refused when it comes, not minutes later in a worker."""

from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.errors import InvalidArgument, invalid_field

KINDS = (job_pb2.JOB_KIND_TRAIN, job_pb2.JOB_KIND_PREPARE)
"""Kinds of job."""

METHODS = ("full", "lora", "qlora", "prefix", "adapter")
"""Methods of training."""

QUANTIZATIONS = (
    run_spec_pb2.QUANTIZATION_UNSPECIFIED,
    run_spec_pb2.QUANTIZATION_NF4,
    run_spec_pb2.QUANTIZATION_FP4,
    run_spec_pb2.QUANTIZATION_INT8,
)
"""How QLoRA's base may be quantised."""

SETTINGS: dict[str, tuple[int, ...]] = {
    "precision": (
        run_spec_pb2.PRECISION_BF16,
        run_spec_pb2.PRECISION_BF16_MIXED,
        run_spec_pb2.PRECISION_FP16_MIXED,
        run_spec_pb2.PRECISION_FP32,
    ),
    "optimizer": (
        run_spec_pb2.OPTIMIZER_ADAMW,
        run_spec_pb2.OPTIMIZER_ADAMW_8BIT,
        run_spec_pb2.OPTIMIZER_PAGED_ADAMW_8BIT,
        run_spec_pb2.OPTIMIZER_SGD,
    ),
    "attention": (run_spec_pb2.ATTENTION_KERNEL_SDPA, run_spec_pb2.ATTENTION_KERNEL_EAGER),
    "gradient_checkpointing": (
        run_spec_pb2.GRADIENT_CHECKPOINTING_OFF,
        run_spec_pb2.GRADIENT_CHECKPOINTING_FULL,
    ),
    "loss_kernel": (run_spec_pb2.LOSS_KERNEL_COMPLETION_ONLY,),
}
"""Values that each setting of a resolved spec may have."""

_SPEC = "job.spec"


def require_kind(kind: int) -> None:
    """Raise InvalidArgument JOB_KIND_NOT_SUPPORTED for a kind of job that no worker can run."""
    if kind not in KINDS:
        names = ", ".join(job_pb2.JobKind.Name(known) for known in KINDS)
        raise invalid_field("job.kind", f"is not supported yet; this server runs {names}", "JOB_KIND_NOT_SUPPORTED")


def require_method(spec: run_spec_pb2.RunSpec) -> None:
    """Raise InvalidArgument METHOD_NOT_SUPPORTED for a method that no worker can run, or when there is none."""
    method = spec.WhichOneof("method")
    names = ", ".join(METHODS)
    if method is None:
        raise invalid_field(f"{_SPEC}.method", f"is needed to train; this server runs {names}")
    if method not in METHODS:
        text = f"this server does not train with {method} yet; it runs {names}"
        raise InvalidArgument(
            "METHOD_NOT_SUPPORTED",
            f"{_SPEC}.{method}: {text}.",
            metadata={"supported": ",".join(METHODS)},
            violations=[(f"{_SPEC}.{method}", text, "METHOD_NOT_SUPPORTED")],
        )
    if spec.qlora.lora.include_experts:
        text = "the experts of a mixture are no linear layers that could be quantised; leave it out, or use lora"
        raise invalid_field(f"{_SPEC}.qlora.lora.include_experts", text, "SETTING_NOT_SUPPORTED")
    if method == "qlora" and spec.qlora.quantization not in QUANTIZATIONS:
        have = ", ".join(run_spec_pb2.Quantization.Name(known) for known in QUANTIZATIONS[1:])
        raise invalid_field(
            f"{_SPEC}.qlora.quantization",
            f"can be priced, not trained; this server runs {have}",
            "SETTING_NOT_SUPPORTED",
        )


def require_settings(spec: run_spec_pb2.RunSpec) -> None:
    """Raise InvalidArgument for the first setting of a resolved spec that no worker can run, or not without another.

    The reason is SETTING_NOT_SUPPORTED, or INVALID_REQUEST where a setting lacks another one; for
    checkpoints.keep_best, which the worker refuses too, it is KEEP_BEST_WITHOUT_EVALUATION.
    """
    for name, supported in SETTINGS.items():
        value = getattr(spec, name)
        if value not in supported:
            enum = spec.DESCRIPTOR.fields_by_name[name].enum_type
            assert enum is not None  # noqa: S101 - every setting of the table is one
            names = enum.values_by_number
            have = ", ".join(names[known].name for known in supported)
            text = f"{names[value].name} is not supported yet; this server runs {have}"
            raise invalid_field(f"{_SPEC}.{name}", text, "SETTING_NOT_SUPPORTED")
    for path, asked in _unsupported(spec):
        if asked:
            raise invalid_field(f"{_SPEC}.{path}", "is not supported yet; leave it out", "SETTING_NOT_SUPPORTED")
    _require_evaluations(spec)


def _require_evaluations(spec: run_spec_pb2.RunSpec) -> None:
    """Early stopping and keep_best look at evaluations while training; without any they would silently never act."""
    evaluation = spec.evaluation
    if spec.checkpoints.keep_best:
        _require_something_to_keep(evaluation)
    if evaluation.best_by:
        _require_best(spec)
    if not evaluation.early_stopping_patience:
        if evaluation.early_stopping_min_delta:
            text = "means nothing without evaluation.early_stopping_patience; state how many evaluations to wait"
            raise invalid_field(f"{_SPEC}.evaluation.early_stopping_min_delta", text)
        return
    if not evaluation.every_steps:
        text = "needs evaluation.every_steps: state after how many optimizer steps to evaluate"
        raise invalid_field(f"{_SPEC}.evaluation.early_stopping_patience", text)
    if not (evaluation.HasField("dataset") or evaluation.split_fraction):
        text = "needs held-out rows: give evaluation.dataset or evaluation.split_fraction"
        raise invalid_field(f"{_SPEC}.evaluation.early_stopping_patience", text)


def _require_something_to_keep(evaluation: run_spec_pb2.Evaluation) -> None:
    path, reason = f"{_SPEC}.checkpoints.keep_best", "KEEP_BEST_WITHOUT_EVALUATION"
    if not evaluation.every_steps:
        text = "needs evaluation.every_steps: state after how many optimizer steps to evaluate"
        raise invalid_field(path, text, reason)
    if not (evaluation.HasField("dataset") or evaluation.split_fraction):
        text = "needs held-out rows: give evaluation.dataset or evaluation.split_fraction"
        raise invalid_field(path, text, reason)


def _require_best(spec: run_spec_pb2.RunSpec) -> None:
    """Whatever is to tell the best evaluation is measured, and somebody asks for the best."""
    evaluation, path = spec.evaluation, f"{_SPEC}.evaluation.best_by"
    if not (evaluation.early_stopping_patience or spec.checkpoints.keep_best):
        text = "means nothing without evaluation.early_stopping_patience or checkpoints.keep_best; state one of them"
        raise invalid_field(path, text)
    if not evaluation.every_steps:
        raise invalid_field(path, "needs evaluation.every_steps: state after how many optimizer steps to evaluate")
    exact = run_spec_pb2.METRIC_EXACT_MATCH
    if evaluation.best_by == exact and exact not in evaluation.metrics:
        raise invalid_field(path, "is METRIC_EXACT_MATCH, which is not among evaluation.metrics; add it there")


def _unsupported(spec: run_spec_pb2.RunSpec) -> tuple[tuple[str, bool], ...]:
    """Settings that can be priced and not yet trained: path, and whether a spec asks for it."""
    alone = (run_spec_pb2.SHARDING_UNSPECIFIED, run_spec_pb2.SHARDING_REPLICATED)
    return (
        ("optimizer_in_backward", spec.optimizer_in_backward),
        ("qlora.lora.include_experts", spec.qlora.lora.include_experts),
        ("hardware.sharding", spec.hardware.sharding not in alone),
        ("hardware.nodes", spec.hardware.nodes > 1),
    )
