# SPDX-License-Identifier: Apache-2.0
"""What training may set, written down once: the trainer refuses everything else by it, and so does the fake suite.

A test holds it equal to what the trainer's worker can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetree_api.trainer.v1 import capacity_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_pb2

from finetree.errors import Violation

TRAINING = capacity_pb2.TrainingCapabilities(
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
        training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED,
    ],
    loss_kernels=[training_pb2.LOSS_KERNEL_COMPLETION_ONLY],
    shardings=[hardware_pb2.SHARDING_REPLICATED, hardware_pb2.SHARDING_FULL],
    programs=[training_pb2.TRAINING_PROGRAM_FINETREE],
    max_devices=64,
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
"""Values that a resolved spec may have, without the kinds of tasks; unset settings are always allowed."""

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
"""RunSpec paths of enum settings, and the field of TrainingCapabilities that lists their values."""

UNDIVIDED_OPTIMIZERS = (training_pb2.OPTIMIZER_ADAMW_8BIT, training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT)
"""Optimizers whose states cannot be divided over devices."""
_MAXIMA = {"hardware.count": "max_devices", "hardware.nodes": "max_nodes"}


def unsupported(
    spec: run_spec_pb2.RunSpec, capabilities: capacity_pb2.TrainingCapabilities = TRAINING
) -> Iterator[Violation]:
    """Settings of a resolved spec that cannot be trained, by their paths in the spec, and why."""
    for path, field in ENUM_SETTINGS.items():
        allowed = getattr(capabilities, field)
        value = _value(spec, path)
        if value and value not in allowed:
            enum: Any = capabilities.DESCRIPTOR.fields_by_name[field].enum_type
            names = enum.values_by_number
            asked = names[value].name if value in names else str(value)
            have = ", ".join(names[known].name for known in allowed)
            # What divides a part has the one that divides everything as its remedy.
            instead = "; use SHARDING_FULL, which divides the weights as well" if path == "hardware.sharding" else ""
            yield Violation(path, f"{asked} cannot be trained; this server has {have}{instead}")
    for path, field in _MAXIMA.items():
        most = getattr(capabilities, field)
        if _value(spec, path) > most:
            yield Violation(path, f"is more than the {most} that one job can have")
    for path in capabilities.unsupported_settings:
        if _value(spec, path):
            yield Violation(path, "cannot be trained by this server; leave it out")
    if spec.hardware.count > 1 and spec.hardware.sharding == hardware_pb2.SHARDING_FULL:
        yield from _undivided(spec)


def _undivided(spec: run_spec_pb2.RunSpec) -> Iterator[Violation]:
    """What of a spec cannot be divided over devices."""
    if spec.optimizer in UNDIVIDED_OPTIMIZERS:
        name = training_pb2.Optimizer.Name(spec.optimizer)
        text = f"{name} keeps 8-bit states that cannot be divided over devices; use OPTIMIZER_ADAMW, whose states are "
        yield Violation("optimizer", f"{text}divided, or SHARDING_REPLICATED")
    if spec.qlora.quantization == method_pb2.QUANTIZATION_INT8:
        text = "an 8-bit base cannot be divided over devices; use SHARDING_REPLICATED, or a 4-bit base"
        yield Violation("hardware.sharding", text)


def _value(spec: run_spec_pb2.RunSpec, path: str) -> int:
    value: Any = spec
    for name in path.split("."):
        value = getattr(value, name)
    return int(value)
