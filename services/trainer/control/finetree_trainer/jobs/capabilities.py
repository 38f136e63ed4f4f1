# SPDX-License-Identifier: Apache-2.0
"""What this server runs, written down once: GetCapacity answers it, and everything else is refused by it.

A test holds it equal to what the worker can do: the two never import each other.
"""

from collections.abc import Iterable
from typing import Any

from finetree_api.trainer.v1 import capacity_pb2, job_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_pb2
from finetree_runtime.errors import InvalidArgument, invalid_field

CAPABILITIES = capacity_pb2.TrainingCapabilities(
    tasks=[
        job_pb2.TASK_KIND_TRAIN,
        job_pb2.TASK_KIND_PREPARE,
        job_pb2.TASK_KIND_EXPORT,
        job_pb2.TASK_KIND_EVALUATE,
        job_pb2.TASK_KIND_SERVE,
    ],
    methods=[
        method_pb2.METHOD_FULL,
        method_pb2.METHOD_LORA,
        method_pb2.METHOD_QLORA,
        method_pb2.METHOD_PREFIX,
        method_pb2.METHOD_ADAPTER,
    ],
    quantizations=[method_pb2.QUANTIZATION_NF4, method_pb2.QUANTIZATION_FP4, method_pb2.QUANTIZATION_INT8],
    precisions=[
        training_pb2.PRECISION_BF16,
        training_pb2.PRECISION_BF16_MIXED,
        training_pb2.PRECISION_FP16_MIXED,
        training_pb2.PRECISION_FP32,
    ],
    optimizers=[
        training_pb2.OPTIMIZER_ADAMW,
        training_pb2.OPTIMIZER_ADAMW_8BIT,
        training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT,
        training_pb2.OPTIMIZER_SGD,
    ],
    attention_kernels=[training_pb2.ATTENTION_KERNEL_SDPA, training_pb2.ATTENTION_KERNEL_EAGER],
    gradient_checkpointing=[
        training_pb2.GRADIENT_CHECKPOINTING_OFF,
        training_pb2.GRADIENT_CHECKPOINTING_FULL,
    ],
    loss_kernels=[training_pb2.LOSS_KERNEL_COMPLETION_ONLY],
    shardings=[hardware_pb2.SHARDING_REPLICATED],
    programs=[training_pb2.TRAINING_PROGRAM_FINETREE],
    max_devices=1,
    max_nodes=1,
    sharding_libraries=[training_pb2.SHARDING_LIBRARY_FSDP2],
    allocator_caches=[training_pb2.ALLOCATOR_CACHE_EXPANDABLE],
    expert_products=[training_pb2.EXPERT_PRODUCTS_GROUPED],
    layer_kernels=[training_pb2.LAYER_KERNELS_PLAIN],
    unsupported_settings=[
        "optimizer_in_backward",
        "program.compile",
        "lora.train_embeddings",
        "lora.train_head",
        "qlora.lora.include_experts",
        "qlora.lora.train_embeddings",
        "qlora.lora.train_head",
    ],
)
"""Values that a resolved spec may have; unset settings are always allowed."""

ENUM_SETTINGS = {
    "qlora.quantization": "quantizations",
    "precision": "precisions",
    "optimizer": "optimizers",
    "attention": "attention_kernels",
    "gradient_checkpointing": "gradient_checkpointing",
    "loss_kernel": "loss_kernels",
    "hardware.sharding": "shardings",
    "program.program": "programs",
    "program.sharding_library": "sharding_libraries",
    "program.allocator_cache": "allocator_caches",
    "program.experts": "expert_products",
    "program.layer_kernels": "layer_kernels",
}
"""RunSpec paths of enum settings, and the field of CAPABILITIES that lists their values."""

_MAXIMA = {"hardware.count": "max_devices", "hardware.nodes": "max_nodes"}

_SPEC = "job.train.spec"
_REASON = "SETTING_NOT_SUPPORTED"


def methods() -> list[str]:
    """Methods of training, by their field in RunSpec."""
    return [method_pb2.Method.Name(method).removeprefix("METHOD_").lower() for method in CAPABILITIES.methods]


def features() -> list[str]:
    """Names of what this server runs, for GetServerInfo."""
    kinds = [job_pb2.TaskKind.Name(task).removeprefix("TASK_KIND_").lower() for task in CAPABILITIES.tasks]
    return [*(f"train.{method}" for method in methods()), *(kind for kind in kinds if kind != "train")]


def require_task(task: str) -> None:
    """Raise InvalidArgument TASK_NOT_SUPPORTED unless the server runs this field of JobTemplate.task."""
    if job_pb2.TaskKind.Value(f"TASK_KIND_{task.upper()}") not in CAPABILITIES.tasks:
        have = ", ".join(job_pb2.TaskKind.Name(known) for known in CAPABILITIES.tasks)
        raise invalid_field(f"job.{task}", f"is not supported; this server runs {have}", "TASK_NOT_SUPPORTED")


def require_method(spec: run_spec_pb2.RunSpec) -> None:
    """Raise InvalidArgument unless the spec has a method (else METHOD_NOT_SUPPORTED) that the server trains with."""
    method, have = spec.WhichOneof("method"), methods()
    if method is None:
        raise invalid_field(f"{_SPEC}.method", f"is needed to train; this server trains with {', '.join(have)}")
    if method not in have:
        text = f"this server does not train with {method}; it trains with {', '.join(have)}"
        raise InvalidArgument(
            "METHOD_NOT_SUPPORTED",
            f"{_SPEC}.{method}: {text}.",
            metadata={"supported": ",".join(have)},
            violations=[(f"{_SPEC}.{method}", text, "METHOD_NOT_SUPPORTED")],
        )


def require_settings(spec: run_spec_pb2.RunSpec) -> None:
    """Raise InvalidArgument SETTING_NOT_SUPPORTED for the settings of a resolved spec that cannot be trained."""
    found = [*_wrong_values(spec), *_too_many(spec), *_turned_on(spec)]
    if found:
        path, text = found[0]
        violations = [(f"{_SPEC}.{path}", text, _REASON) for path, text in found]
        raise InvalidArgument(_REASON, f"{_SPEC}.{path}: {text}.", violations=violations)


def _wrong_values(spec: run_spec_pb2.RunSpec) -> Iterable[tuple[str, str]]:
    for path, field in ENUM_SETTINGS.items():
        allowed = getattr(CAPABILITIES, field)
        value = _value(spec, path)
        if value and value not in allowed:
            enum = CAPABILITIES.DESCRIPTOR.fields_by_name[field].enum_type
            assert enum is not None  # noqa: S101 - the table names enums alone
            names = enum.values_by_number
            asked = names[value].name if value in names else str(value)
            have = ", ".join(names[known].name for known in allowed)
            yield path, f"{asked} cannot be trained; this server has {have}"


def _too_many(spec: run_spec_pb2.RunSpec) -> Iterable[tuple[str, str]]:
    for path, field in _MAXIMA.items():
        most = getattr(CAPABILITIES, field)
        if _value(spec, path) > most:
            yield path, f"is more than the {most} that one job can have"


def _turned_on(spec: run_spec_pb2.RunSpec) -> Iterable[tuple[str, str]]:
    for path in CAPABILITIES.unsupported_settings:
        if _value(spec, path):
            yield path, "cannot be trained by this server; leave it out"


def _value(spec: run_spec_pb2.RunSpec, path: str) -> int:
    value: Any = spec
    for name in path.split("."):
        value = getattr(value, name)
    return int(value)
