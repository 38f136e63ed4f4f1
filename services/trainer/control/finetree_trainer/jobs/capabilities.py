# SPDX-License-Identifier: Apache-2.0
"""What this server runs: GetCapacity answers it, and everything else is refused by it.

What training may set stands in finetree.capabilities; a test holds it equal to what the worker can do, which the
control plane never imports.
"""

from finetree.capabilities import TRAINING, unsupported
from finetree_api.trainer.v1 import capacity_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_runtime.errors import InvalidArgument, invalid_field

CAPABILITIES = capacity_pb2.TrainingCapabilities(
    tasks=[
        job_pb2.TASK_KIND_TRAIN,
        job_pb2.TASK_KIND_PREPARE,
        job_pb2.TASK_KIND_EXPORT,
        job_pb2.TASK_KIND_EVALUATE,
        job_pb2.TASK_KIND_SERVE,
    ],
)
CAPABILITIES.MergeFrom(TRAINING)
"""Kinds of tasks, and values that a resolved spec may have; unset settings are always allowed."""

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
    found = list(unsupported(spec, CAPABILITIES))
    if found:
        violations = [(f"{_SPEC}.{each.field}", each.description, _REASON) for each in found]
        raise InvalidArgument(_REASON, f"{_SPEC}.{found[0]}.", violations=violations)
