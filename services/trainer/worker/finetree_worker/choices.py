# SPDX-License-Identifier: Apache-2.0
"""What this worker can train with: for each choice of the contract the values that it takes, and what they are here.

A value that is missing in a table is refused by name; the control plane refuses the same ones before a job is queued.
"""

from typing import Any

from finetree_api.types.v1 import method_pb2, training_pb2

from finetree_worker import plan
from finetree_worker.errors import PlanError

TARGETS = {
    method_pb2.TARGET_PRESET_UNSPECIFIED: plan.Targets.ALL_LINEAR,
    method_pb2.TARGET_PRESET_ALL_LINEAR: plan.Targets.ALL_LINEAR,
    method_pb2.TARGET_PRESET_ATTENTION: plan.Targets.ATTENTION,
    method_pb2.TARGET_PRESET_QUERY_VALUE: plan.Targets.QUERY_VALUE,
    method_pb2.TARGET_PRESET_MLP: plan.Targets.MLP,
}
QUANTIZATIONS = {
    method_pb2.QUANTIZATION_UNSPECIFIED: plan.Quantization.NF4,
    method_pb2.QUANTIZATION_NF4: plan.Quantization.NF4,
    method_pb2.QUANTIZATION_FP4: plan.Quantization.FP4,
    method_pb2.QUANTIZATION_INT8: plan.Quantization.INT8,
}
PLACEMENTS = {
    method_pb2.ADAPTER_PLACEMENT_UNSPECIFIED: plan.Placement.PFEIFFER,
    method_pb2.ADAPTER_PLACEMENT_PFEIFFER: plan.Placement.PFEIFFER,
    method_pb2.ADAPTER_PLACEMENT_HOULSBY: plan.Placement.HOULSBY,
    method_pb2.ADAPTER_PLACEMENT_PARALLEL: plan.Placement.PARALLEL,
}
SCHEDULES = {
    training_pb2.SCHEDULE_UNSPECIFIED: plan.Schedule.COSINE,
    training_pb2.SCHEDULE_COSINE: plan.Schedule.COSINE,
    training_pb2.SCHEDULE_LINEAR: plan.Schedule.LINEAR,
    training_pb2.SCHEDULE_CONSTANT: plan.Schedule.CONSTANT,
}
LOSS_ON = {
    training_pb2.LOSS_TOKENS_UNSPECIFIED: plan.LossOn.COMPLETIONS,
    training_pb2.LOSS_TOKENS_COMPLETIONS: plan.LossOn.COMPLETIONS,
    training_pb2.LOSS_TOKENS_ALL: plan.LossOn.ALL,
    training_pb2.LOSS_TOKENS_LAST_COMPLETION: plan.LossOn.LAST_COMPLETION,
}
PRECISIONS = {
    training_pb2.PRECISION_UNSPECIFIED: plan.Precision.BF16,
    training_pb2.PRECISION_BF16: plan.Precision.BF16,
    training_pb2.PRECISION_BF16_MIXED: plan.Precision.BF16_MIXED,
    training_pb2.PRECISION_FP16_MIXED: plan.Precision.FP16_MIXED,
    training_pb2.PRECISION_FP32: plan.Precision.FP32,
}
OPTIMIZERS = {
    training_pb2.OPTIMIZER_UNSPECIFIED: plan.OptimizerName.ADAMW,
    training_pb2.OPTIMIZER_ADAMW: plan.OptimizerName.ADAMW,
    training_pb2.OPTIMIZER_ADAMW_8BIT: plan.OptimizerName.ADAMW_8BIT,
    training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT: plan.OptimizerName.PAGED_ADAMW_8BIT,
    training_pb2.OPTIMIZER_SGD: plan.OptimizerName.SGD,
}
CHECKPOINTING = {
    training_pb2.GRADIENT_CHECKPOINTING_UNSPECIFIED: False,
    training_pb2.GRADIENT_CHECKPOINTING_OFF: False,
    training_pb2.GRADIENT_CHECKPOINTING_FULL: True,
}
ATTENTION = {
    training_pb2.ATTENTION_KERNEL_UNSPECIFIED: plan.Attention.SDPA,
    training_pb2.ATTENTION_KERNEL_SDPA: plan.Attention.SDPA,
    training_pb2.ATTENTION_KERNEL_EAGER: plan.Attention.EAGER,
}
PREFIX_INITS = {
    method_pb2.PREFIX_INIT_UNSPECIFIED: plan.PrefixInit.TEXT,
    method_pb2.PREFIX_INIT_TEXT: plan.PrefixInit.TEXT,
    method_pb2.PREFIX_INIT_ZERO: plan.PrefixInit.ZERO,
}
LOSS_KERNELS = {training_pb2.LOSS_KERNEL_UNSPECIFIED: None, training_pb2.LOSS_KERNEL_COMPLETION_ONLY: None}
METRICS = {
    training_pb2.METRIC_LOSS: plan.Metric.LOSS,
    training_pb2.METRIC_EXACT_MATCH: plan.Metric.EXACT_MATCH,
    training_pb2.METRIC_TOKEN_ACCURACY: plan.Metric.TOKEN_ACCURACY,
}


def chosen(message: Any, field: str, taken: dict[Any, Any], prefix: str = "") -> Any:
    """What a field's value means here; `prefix` is the path of `message` in the spec. Raises PlanError."""
    value = getattr(message, field)
    if value in taken:
        return taken[value]
    known = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    raise unsupported(prefix + field, known[value].name if value in known else str(value))


def unsupported(field: str, value: str) -> PlanError:
    """The error for a value that this worker cannot train with."""
    return PlanError(
        "UNSUPPORTED_SETTING",
        f"This worker cannot train with {field} {value}.",
        field=field,
        remedy="Leave the field out to get a value that it can.",
    )


def unresolved(field: str) -> PlanError:
    """The error for a setting without which nothing can be planned."""
    return PlanError("UNRESOLVED_SPEC", f"The run says nothing of {field}.", field=field, remedy="State it.")
