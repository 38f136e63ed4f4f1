# SPDX-License-Identifier: Apache-2.0
"""An export as frozen values, from the contract's task."""

from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, export_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.contract import reading_of

from finetree_worker.errors import PlanError
from finetree_worker.export.gguf.weights import WeightType
from finetree_worker.methods.weights import Weights
from finetree_worker.plan import BaseModel
from finetree_worker.plan_from_task import free_folder
from finetree_worker.tokenize.rows import RowSource

PROMPTS, NEW_TOKENS = 8, 32
"""Prompts that are asked, and the longest answer in tokens, where a task does not say."""
FOLDERS = {
    artifact_pb2.EXPORT_FORMAT_TRANSFORMERS: "merged",
    artifact_pb2.EXPORT_FORMAT_GGUF: "gguf",
    artifact_pb2.EXPORT_FORMAT_GGUF_LORA: "gguf-lora",
}
"""Id of an export's artifact by its format."""
WEIGHT_TYPES = {
    artifact_pb2.WEIGHT_TYPE_F32: WeightType.F32,
    artifact_pb2.WEIGHT_TYPE_F16: WeightType.F16,
    artifact_pb2.WEIGHT_TYPE_BF16: WeightType.BF16,
    artifact_pb2.WEIGHT_TYPE_Q8_0: WeightType.Q8_0,
}
_DEFAULTS = {
    artifact_pb2.EXPORT_FORMAT_GGUF: WeightType.F16,
    artifact_pb2.EXPORT_FORMAT_GGUF_LORA: WeightType.F32,
}
"""Number formats where a task names none; that of a transformers folder is the base's own."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """An export with all its settings. `weight_type` None: that of the base's files."""

    job: str
    base: BaseModel
    weights: Weights
    format: artifact_pb2.ExportFormat.ValueType
    weight_type: WeightType | None
    artifact: Path
    threads: int = 1
    rows: RowSource | None = None
    """Rows whose prompts are asked; None for prompts of the suite's own."""
    prompt_source: export_pb2.PromptSource.ValueType = export_pb2.PROMPT_SOURCE_BUILT_IN
    max_prompts: int = PROMPTS
    max_new_tokens: int = NEW_TOKENS


def export_plan(task: worker_pb2.Task) -> ExportPlan:
    """Return the plan of a task that exports.

    Raises PlanError: EXPORT_FORMAT_UNSUPPORTED for a number format that the format does not have.
    """
    asked, base = task.export, task.base
    kind = asked.format or artifact_pb2.EXPORT_FORMAT_TRANSFORMERS
    weight_type = WEIGHT_TYPES.get(asked.weight_type, _DEFAULTS.get(kind))
    if weight_type is WeightType.Q8_0 and kind != artifact_pb2.EXPORT_FORMAT_GGUF:
        raise PlanError(
            "EXPORT_FORMAT_UNSUPPORTED",
            "Only a GGUF model has weights in Q8_0.",
            field="export.weight_type",
            remedy="Take f16, bf16 or f32, or the format gguf.",
        )
    rows, source = _rows(task)
    return ExportPlan(
        job=task.job,
        base=BaseModel(Path(base.model_dir), base.hub_id, base.hub_revision),
        weights=Weights.from_message(task.weights[0]),
        format=kind,
        weight_type=weight_type,
        artifact=free_folder(Path(task.folders.artifact_dir), FOLDERS[kind], task.attempt),
        threads=max(1, task.threads),
        rows=rows,
        prompt_source=source,
        max_prompts=asked.max_prompts or PROMPTS,
        max_new_tokens=asked.max_new_tokens or NEW_TOKENS,
    )


def _rows(task: worker_pb2.Task) -> tuple[RowSource | None, export_pb2.PromptSource.ValueType]:
    """Return the rows that are asked: those of the request, else of the job that trained the weights."""
    spec = task.weights[0].spec
    if task.export.HasField("prompts"):
        rows = RowSource(Path(task.dataset_file), reading_of(task.export.prompts), "prompts")
        return rows, export_pb2.PROMPT_SOURCE_REQUEST
    if task.evaluation_file:
        rows = RowSource(Path(task.evaluation_file), reading_of(spec.evaluation.dataset), "evaluation.dataset")
        return rows, export_pb2.PROMPT_SOURCE_HELD_OUT_ROWS
    if task.dataset_file:
        rows = RowSource(Path(task.dataset_file), reading_of(spec.dataset))
        return rows, export_pb2.PROMPT_SOURCE_TRAINING_ROWS
    return None, export_pb2.PROMPT_SOURCE_BUILT_IN
