# SPDX-License-Identifier: Apache-2.0
"""Values of RunSpec's enums that this worker supports, as the plan's own.

A value that is missing in a table is refused by name. The trainer refuses it before a job is queued.
"""

from typing import Any

from finetree_api.types.v1 import hardware_pb2, training_pb2

from finetree_worker.errors import PlanError
from finetree_worker.plan import Attention, Checkpointing, LossOn, Metric, OptimizerName, Precision, Schedule, Sharding

SCHEDULES = {
    training_pb2.SCHEDULE_UNSPECIFIED: Schedule.COSINE,
    training_pb2.SCHEDULE_COSINE: Schedule.COSINE,
    training_pb2.SCHEDULE_LINEAR: Schedule.LINEAR,
    training_pb2.SCHEDULE_CONSTANT: Schedule.CONSTANT,
}
LOSS_ON = {
    training_pb2.LOSS_TOKENS_UNSPECIFIED: LossOn.COMPLETIONS,
    training_pb2.LOSS_TOKENS_COMPLETIONS: LossOn.COMPLETIONS,
    training_pb2.LOSS_TOKENS_ALL: LossOn.ALL,
    training_pb2.LOSS_TOKENS_LAST_COMPLETION: LossOn.LAST_COMPLETION,
}
PRECISIONS = {
    training_pb2.PRECISION_UNSPECIFIED: Precision.BF16,
    training_pb2.PRECISION_BF16: Precision.BF16,
    training_pb2.PRECISION_BF16_MIXED: Precision.BF16_MIXED,
    training_pb2.PRECISION_FP16_MIXED: Precision.FP16_MIXED,
    training_pb2.PRECISION_FP32: Precision.FP32,
}
OPTIMIZERS = {
    training_pb2.OPTIMIZER_UNSPECIFIED: OptimizerName.ADAMW,
    training_pb2.OPTIMIZER_ADAMW: OptimizerName.ADAMW,
    training_pb2.OPTIMIZER_ADAMW_8BIT: OptimizerName.ADAMW_8BIT,
    training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT: OptimizerName.PAGED_ADAMW_8BIT,
    training_pb2.OPTIMIZER_SGD: OptimizerName.SGD,
}
CHECKPOINTING = {
    training_pb2.GRADIENT_CHECKPOINTING_UNSPECIFIED: Checkpointing.OFF,
    training_pb2.GRADIENT_CHECKPOINTING_OFF: Checkpointing.OFF,
    training_pb2.GRADIENT_CHECKPOINTING_FULL: Checkpointing.FULL,
    training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED: Checkpointing.OFFLOADED,
}
ATTENTION = {
    training_pb2.ATTENTION_KERNEL_UNSPECIFIED: Attention.SDPA,
    training_pb2.ATTENTION_KERNEL_SDPA: Attention.SDPA,
    training_pb2.ATTENTION_KERNEL_EAGER: Attention.EAGER,
}
LOSS_KERNELS = {training_pb2.LOSS_KERNEL_UNSPECIFIED: None, training_pb2.LOSS_KERNEL_COMPLETION_ONLY: None}
PROGRAMS = {training_pb2.TRAINING_PROGRAM_UNSPECIFIED: None, training_pb2.TRAINING_PROGRAM_FINETREE: None}
SHARDINGS = {
    hardware_pb2.SHARDING_UNSPECIFIED: Sharding.REPLICATED,
    hardware_pb2.SHARDING_REPLICATED: Sharding.REPLICATED,
    hardware_pb2.SHARDING_FULL: Sharding.FULL,
}
METRICS = {
    training_pb2.METRIC_LOSS: Metric.LOSS,
    training_pb2.METRIC_EXACT_MATCH: Metric.EXACT_MATCH,
    training_pb2.METRIC_TOKEN_ACCURACY: Metric.TOKEN_ACCURACY,
}


def value_of(message: Any, field: str, table: dict[Any, Any], *, parent: str = "") -> Any:
    """Return a field's value as the plan's. Raises PlanError. `parent` is the path of `message` and a dot."""
    value = getattr(message, field)
    if value in table:
        return table[value]
    known = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    raise not_supported(parent + field, known[value].name if value in known else str(value))


def stated(message: Any, *fields: str) -> dict[str, Any]:
    """Return the values of the optional fields that are set, by name."""
    return {field: getattr(message, field) for field in fields if message.HasField(field)}


def not_supported(field: str, value: str) -> PlanError:
    """Return the error for a value that this worker cannot train with."""
    return PlanError(
        "SETTING_NOT_SUPPORTED",
        f"This worker cannot train with {field} {value}.",
        field=field,
        remedy="Leave the field unset for the default.",
    )


def unresolved(field: str) -> PlanError:
    """Return the error for a setting that a resolved run must have."""
    return PlanError("UNRESOLVED_SPEC", f"The run does not set {field}.", field=field, remedy="Set it.")
