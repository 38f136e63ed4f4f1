# SPDX-License-Identifier: Apache-2.0
"""What this server runs, written down once: validation refuses everything else, and GetCapacity reports it.

A test holds the tables equal to what the worker can do: the two never import each other.
"""

from typing import Any

from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_pb2
from finetree_runtime.errors import InvalidArgument, invalid_field
from google.protobuf.descriptor import EnumDescriptor

KINDS = (job_pb2.TASK_KIND_TRAIN, job_pb2.TASK_KIND_PREPARE)
"""Kinds of job."""

METHODS = ("full", "lora", "qlora", "prefix", "adapter")
"""Methods of training, by their field in RunSpec."""

SETTINGS: dict[str, tuple[int, ...]] = {
    "precision": (
        training_pb2.PRECISION_BF16,
        training_pb2.PRECISION_BF16_MIXED,
        training_pb2.PRECISION_FP16_MIXED,
        training_pb2.PRECISION_FP32,
    ),
    "optimizer": (
        training_pb2.OPTIMIZER_ADAMW,
        training_pb2.OPTIMIZER_ADAMW_8BIT,
        training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT,
        training_pb2.OPTIMIZER_SGD,
    ),
    "attention": (training_pb2.ATTENTION_KERNEL_SDPA, training_pb2.ATTENTION_KERNEL_EAGER),
    "gradient_checkpointing": (
        training_pb2.GRADIENT_CHECKPOINTING_OFF,
        training_pb2.GRADIENT_CHECKPOINTING_FULL,
    ),
    "loss_kernel": (training_pb2.LOSS_KERNEL_COMPLETION_ONLY,),
    "qlora.quantization": (
        method_pb2.QUANTIZATION_NF4,
        method_pb2.QUANTIZATION_FP4,
        method_pb2.QUANTIZATION_INT8,
    ),
    "hardware.sharding": (hardware_pb2.SHARDING_REPLICATED,),
}
"""Values that a setting of a resolved spec may have, by its path in RunSpec; unset is always allowed."""

LIMITS = {"hardware.nodes": 1}
"""Largest value of a numeric setting, by its path in RunSpec."""

ALWAYS_OFF = ("optimizer_in_backward", "qlora.lora.include_experts")
"""Boolean settings that can be priced and not trained, by their path in RunSpec."""

_SPEC = "job.spec"
_REASON = "SETTING_NOT_SUPPORTED"


def features() -> tuple[str, ...]:
    """Names of what this server runs, for GetServerInfo."""
    return (*(f"train.{method}" for method in METHODS), "prepare")


def require_kind(kind: int) -> None:
    """Raise InvalidArgument JOB_KIND_NOT_SUPPORTED unless the server runs jobs of this kind."""
    if kind not in KINDS:
        names = ", ".join(job_pb2.JobKind.Name(known) for known in KINDS)
        raise invalid_field("job.kind", f"is not supported; this server runs {names}", "JOB_KIND_NOT_SUPPORTED")


def require_method(spec: run_spec_pb2.RunSpec) -> None:
    """Raise InvalidArgument unless the spec has a method (else METHOD_NOT_SUPPORTED) that the server trains with."""
    method = spec.WhichOneof("method")
    names = ", ".join(METHODS)
    if method is None:
        raise invalid_field(f"{_SPEC}.method", f"is needed to train; this server trains with {names}")
    if method not in METHODS:
        text = f"this server does not train with {method}; it trains with {names}"
        raise InvalidArgument(
            "METHOD_NOT_SUPPORTED",
            f"{_SPEC}.{method}: {text}.",
            metadata={"supported": ",".join(METHODS)},
            violations=[(f"{_SPEC}.{method}", text, "METHOD_NOT_SUPPORTED")],
        )


def require_settings(spec: run_spec_pb2.RunSpec) -> None:
    """Raise InvalidArgument SETTING_NOT_SUPPORTED for the first setting of a resolved spec that cannot be trained."""
    for path, allowed in SETTINGS.items():
        value, enum = _setting(spec, path)
        if value and value not in allowed:
            names = enum.values_by_number
            asked = names[value].name if value in names else str(value)
            have = ", ".join(names[known].name for known in allowed)
            raise invalid_field(f"{_SPEC}.{path}", f"{asked} cannot be trained; this server has {have}", _REASON)
    for path, most in LIMITS.items():
        if _value(spec, path) > most:
            raise invalid_field(f"{_SPEC}.{path}", f"is more than the {most} that this server has", _REASON)
    for path in ALWAYS_OFF:
        if _value(spec, path):
            raise invalid_field(f"{_SPEC}.{path}", "cannot be trained by this server; leave it out", _REASON)


def _value(spec: run_spec_pb2.RunSpec, path: str) -> int:
    value: Any = spec
    for name in path.split("."):
        value = getattr(value, name)
    return int(value)


def _setting(spec: run_spec_pb2.RunSpec, path: str) -> tuple[int, EnumDescriptor]:
    *parents, name = path.split(".")
    message: Any = spec
    for parent in parents:
        message = getattr(message, parent)
    enum = message.DESCRIPTOR.fields_by_name[name].enum_type
    assert enum is not None  # noqa: S101 - the paths of the table lead to enums
    return getattr(message, name), enum
