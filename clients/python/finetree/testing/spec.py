# SPDX-License-Identifier: Apache-2.0
"""Specs as the services treat them: their defaults, settings that exclude each other, plans and their digests.

A test holds this equal to what the services do with the same specs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetree_api.types.v1 import (
    check_pb2,
    evidence_pb2,
    hardware_pb2,
    method_pb2,
    run_spec_pb2,
    training_data_pb2,
    training_pb2,
)
from google.protobuf import json_format
from google.protobuf.message import Message

LENGTH_STEP, UNKNOWN_LENGTH, LONGEST, MICRO_BATCH_TOKENS = 64, 2048, 16_777_216, 8192
_LEARNING_RATES = {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4, "prefix": 5e-3, "adapter": 1e-4}
_COVERED = ("engine", "catalog", "price_book")
_CHECKPOINTING = (training_pb2.GRADIENT_CHECKPOINTING_FULL, training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A setting of a spec that has to change: the error's reason, the setting's path, and what to do."""

    reason: str
    field: str
    text: str


def resolve(
    spec: run_spec_pb2.RunSpec, profile: training_data_pb2.DatasetProfile | None = None, *, positions: int = 0
) -> tuple[run_spec_pb2.RunSpec, list[check_pb2.SettingSource]]:
    """Copy a spec with every default filled in, and say where each value comes from.

    Args:
        spec: what was asked for.
        profile: what is known of the rows; None means the spec's own.
        positions: longest sequence of the model in tokens; 0 when unknown.
    """
    resolved = run_spec_pb2.RunSpec()
    resolved.CopyFrom(spec)
    if profile is None and spec.dataset.WhichOneof("source") == "profile":
        profile = spec.dataset.profile
    filled = {path for path, value in _defaults(resolved, profile, positions) if _fill(resolved, path, value)}
    sources = [
        check_pb2.SettingSource(
            field_path=path,
            rule_id=f"default.{path}" if path in filled else "request",
            reason="a default" if path in filled else "given in the request",
        )
        for path in set_paths(resolved)
    ]
    return resolved, sources


def _defaults(
    spec: run_spec_pb2.RunSpec, profile: training_data_pb2.DatasetProfile | None, positions: int
) -> Iterator[tuple[str, Any]]:
    """Paths and values in field order; later ones may read what earlier ones filled in."""
    method = spec.WhichOneof("method")
    yield from _method_defaults(spec, method)
    yield "training.epochs", 3.0
    if method is not None:
        yield "training.learning_rate", _LEARNING_RATES[method]
    yield "training.schedule", training_pb2.SCHEDULE_COSINE
    yield "training.warmup_ratio", 0.1
    yield "training.weight_decay", 0.01
    yield "training.max_grad_norm", 1.0
    yield "training.non_finite_limit", 5
    yield "training.effective_batch_size", 16
    length = _suggested_length(profile) or UNKNOWN_LENGTH
    yield "training.sequence_length", positions if 0 < positions < length else length
    most = max(1, MICRO_BATCH_TOKENS // spec.training.sequence_length)
    yield "training.micro_batch_size", min(spec.training.effective_batch_size, 1 << (most.bit_length() - 1))
    yield "training.packing", training_pb2.PACKING_ON
    yield "training.loss_tokens", training_pb2.LOSS_TOKENS_COMPLETIONS
    yield "training.append_eos", True
    yield "training.seed", 0
    yield "precision", training_pb2.PRECISION_BF16
    yield "optimizer", training_pb2.OPTIMIZER_ADAMW
    yield "attention", training_pb2.ATTENTION_KERNEL_SDPA
    plain = spec.hardware.WhichOneof("device") in ("cpu", None) or method == "prefix"
    off, full = training_pb2.GRADIENT_CHECKPOINTING_OFF, training_pb2.GRADIENT_CHECKPOINTING_FULL
    yield "gradient_checkpointing", off if plain else full
    yield "loss_kernel", training_pb2.LOSS_KERNEL_COMPLETION_ONLY
    yield from _surroundings(spec)


def _method_defaults(spec: run_spec_pb2.RunSpec, method: str | None) -> Iterator[tuple[str, Any]]:
    if method in ("lora", "qlora"):
        prefix = "lora" if method == "lora" else "qlora.lora"
        lora = spec.lora if method == "lora" else spec.qlora.lora
        yield f"{prefix}.rank", 8
        yield f"{prefix}.alpha", 2.0 * (lora.rank if lora.HasField("rank") else 8)
        yield f"{prefix}.dropout", 0.0 if lora.include_experts else 0.1
        if not lora.target_modules:
            yield f"{prefix}.targets", method_pb2.TARGET_PRESET_ALL_LINEAR
        for name in ("rank_stabilized", "weight_decomposed", "include_experts", "train_embeddings", "train_head"):
            yield f"{prefix}.{name}", False
    if method == "qlora":
        yield "qlora.quantization", method_pb2.QUANTIZATION_NF4
        yield "qlora.double_quantization", True
    if method == "prefix":
        yield "prefix.virtual_tokens", 20
        yield "prefix.init", method_pb2.PREFIX_INIT_TEXT
    if method == "adapter":
        yield "adapter.bottleneck_size", 64
        yield "adapter.placement", method_pb2.ADAPTER_PLACEMENT_PFEIFFER


def _surroundings(spec: run_spec_pb2.RunSpec) -> Iterator[tuple[str, Any]]:
    if spec.hardware.WhichOneof("device") is not None:
        yield "hardware.count", 1
        if spec.hardware.count > 1:
            yield "hardware.sharding", hardware_pb2.SHARDING_REPLICATED
            yield "hardware.nodes", 1
    evaluation = spec.evaluation
    if evaluation.HasField("dataset") or evaluation.split_fraction > 0:
        exact = [training_pb2.METRIC_EXACT_MATCH] if evaluation.samples else []
        yield "evaluation.metrics", [training_pb2.METRIC_LOSS, *exact]
        if training_pb2.METRIC_EXACT_MATCH in evaluation.metrics:
            yield "evaluation.max_new_tokens", 64
        yield "evaluation.samples", 0
        yield "evaluation.before_training", False
    yield "checkpoints.every_steps", 100
    yield "checkpoints.keep", 2
    yield "checkpoints.keep_best", False
    yield "optimizer_in_backward", False
    yield "program.program", training_pb2.TRAINING_PROGRAM_FINETREE
    yield "program.compile", False


def _suggested_length(profile: training_data_pb2.DatasetProfile | None) -> int:
    """Tokens that keep 99 % of the rows whole, a multiple of 64; 0 where lengths are unknown."""
    if profile is None:
        return 0
    if not profile.token_lengths:
        twice = -(-2 * profile.total_tokens // profile.examples) if profile.examples else 0
        length = -(-twice // LENGTH_STEP) * LENGTH_STEP
        return length if UNKNOWN_LENGTH < length <= LONGEST else 0
    wanted, seen, bound = 0.99 * sum(bucket.count for bucket in profile.token_lengths), 0, 0
    for bucket in sorted(profile.token_lengths, key=lambda each: each.upper_bound):
        seen, bound = seen + bucket.count, bucket.upper_bound
        if seen >= wanted:
            break
    total, most = profile.total_tokens, profile.total_tokens_range.high
    if 0 < total < most:
        bound = min(-(-bound * most // total), LONGEST)
    return -(-bound // LENGTH_STEP) * LENGTH_STEP


def _fill(spec: run_spec_pb2.RunSpec, path: str, value: Any) -> bool:
    *parents, name = path.split(".")
    target: Any = spec
    for parent in parents:
        target = getattr(target, parent)
    field = target.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        if getattr(target, name):
            return False
        getattr(target, name).extend(value)
        return True
    if field.containing_oneof is not None:
        taken = target.WhichOneof(field.containing_oneof.name) is not None
    else:
        taken = getattr(target, name) != field.default_value
    if not taken:
        setattr(target, name, value)
    return not taken


def set_paths(message: Message, prefix: str = "") -> list[str]:
    """Paths of the leaves that are set in a message, in field order; lists count as leaves."""
    paths: list[str] = []
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        inner = field.message_type is not None and not field.is_repeated
        paths.extend((set_paths(value, f"{path}.") or [path]) if inner else [path])
    return paths


def conflict(spec: run_spec_pb2.RunSpec, positions: int = 0) -> Conflict | None:
    """First setting of a resolved spec that another one, or the model's positions, exclude."""
    return _recipe_conflict(spec) or _devices_conflict(spec.hardware) or _length_conflict(spec.training, positions)


def _recipe_conflict(spec: run_spec_pb2.RunSpec) -> Conflict | None:
    training, lora = spec.training, spec.lora
    if spec.WhichOneof("method") == "prefix" and spec.gradient_checkpointing in _CHECKPOINTING:
        text = "prefix tuning excludes gradient checkpointing; turn it off"
        return Conflict("PREFIX_WITH_CHECKPOINTING", "gradient_checkpointing", text)
    if lora.include_experts and (lora.weight_decomposed or lora.dropout > 0):
        return _experts_conflict(lora)
    if training.micro_batch_size > training.effective_batch_size > 0:
        text = f"is larger than the batch of {training.effective_batch_size} rows; lower it"
        return Conflict("MICRO_BATCH_TOO_LARGE", "training.micro_batch_size", text)
    return None


def _devices_conflict(hardware: hardware_pb2.Hardware) -> Conflict | None:
    devices, machines = max(1, hardware.count), max(1, hardware.nodes)
    if devices % machines:
        text = f"{devices} devices do not spread evenly over {machines} machines; use a divisor of {devices}"
        return Conflict("NODES_UNEVEN", "hardware.nodes", text)
    if 0 < hardware.cpu.cores < hardware.count:
        text = f"each process needs a thread of the CPU; lower it to {hardware.cpu.cores}"
        return Conflict("THREADS_TOO_FEW", "hardware.count", text)
    return None


def _length_conflict(training: training_pb2.Training, positions: int) -> Conflict | None:
    if 0 < positions < training.sequence_length:
        text = f"{training.sequence_length} tokens are more than the {positions} positions of the model; lower it"
        return Conflict("SEQUENCE_TOO_LONG", "training.sequence_length", text)
    return None


def _experts_conflict(lora: method_pb2.Lora) -> Conflict:
    if lora.weight_decomposed:
        return Conflict("EXPERTS_WITH_DORA", "lora.weight_decomposed", "adapters of experts cannot use DoRA")
    return Conflict("EXPERTS_WITH_DROPOUT", "lora.dropout", "adapters of experts go without dropout; set it to 0")


def optimizer_steps(spec: run_spec_pb2.RunSpec, examples: int) -> int:
    """Optimizer steps of a resolved spec over so many rows."""
    if spec.training.WhichOneof("length") == "max_steps":
        return spec.training.max_steps
    per_epoch = max(1, math.ceil(examples / max(1, spec.training.effective_batch_size)))
    return max(1, math.ceil(per_epoch * spec.training.epochs - 1e-9))


def make_plan(
    spec: run_spec_pb2.RunSpec,
    profile: training_data_pb2.DatasetProfile | None,
    revision: evidence_pb2.Revision,
) -> run_spec_pb2.Plan:
    """Make the plan of a resolved spec, with its digest."""
    plan = run_spec_pb2.Plan(spec=spec, dataset_profile=profile, revision=revision)
    plan.digest = digest(plan)
    return plan


def digest(plan: run_spec_pb2.Plan) -> str:
    """Hash of what a plan promises: "sha256:" and 64 hex digits."""
    text = json.dumps(_covered(plan), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def differences(approved: run_spec_pb2.Plan, present: run_spec_pb2.Plan) -> list[tuple[str, str, str]]:
    """Fields in which two plans differ: path, and JSON of both sides, "" where it is unset."""
    left, right = _flat(_covered(approved)), _flat(_covered(present))
    changed = [path for path in sorted(left | right) if left.get(path) != right.get(path)]
    return [(path, left.get(path, ""), right.get(path, "")) for path in changed]


def _covered(plan: run_spec_pb2.Plan) -> dict[str, Any]:
    covered = run_spec_pb2.Plan(spec=plan.spec)
    if plan.HasField("dataset_profile"):
        covered.dataset_profile.CopyFrom(plan.dataset_profile)
    for field, component in plan.revision.ListFields():
        if field.name in _COVERED:
            getattr(covered.revision, field.name).CopyFrom(component)
    document: dict[str, Any] = json_format.MessageToDict(covered, preserving_proto_field_name=True)
    return document


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: json.dumps(value, sort_keys=True)}
    found: dict[str, str] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found or ({prefix: "{}"} if prefix else {})
