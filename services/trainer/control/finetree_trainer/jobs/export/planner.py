# SPDX-License-Identifier: Apache-2.0
"""Plans exports: what is exported, into which base, asked which prompts, and whether it fits on the disk."""

import asyncio
import math
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.types.v1 import check_pb2, model_pb2, weights_pb2
from finetree_data.weights.errors import WeightsError
from finetree_data.weights.export import GGUF_ADAPTER_ALONE, NOT_MERGEABLE, serve_beside, shape_problem
from finetree_data.weights.safetensors_file import StoredTensor, read_header
from finetree_runtime.errors import DomainError, InvalidArgument, ResourceExhausted, invalid_field

from finetree_trainer.jobs.inputs import Inputs, PlannedDataset
from finetree_trainer.models import locate
from finetree_trainer.models.json_file import json_object
from finetree_trainer.models.locate import BaseModel, Models
from finetree_trainer.models.weights import LocatedWeights, WeightsLocator, require_base

_EXPORT = "job.export"
_BYTES = {
    artifact_pb2.WEIGHT_TYPE_F32: 4.0,
    artifact_pb2.WEIGHT_TYPE_F16: 2.0,
    artifact_pb2.WEIGHT_TYPE_BF16: 2.0,
    artifact_pb2.WEIGHT_TYPE_Q8_0: 34 / 32,
}
"""Bytes of a weight; a block of 32 in Q8_0 has a scale of two bytes."""
_STORED = {"F64": 8.0, "F32": 4.0, "F16": 2.0, "BF16": 2.0}
_BESIDE = 32 * 1024 * 1024
"""Bytes of tokenizer, configuration and report beside the weights, at most."""
_TRANSFORMERS = artifact_pb2.EXPORT_FORMAT_TRANSFORMERS
_LORA = ("lora", "qlora")
PROMPTS, NEW_TOKENS = 8, 32
"""Defaults that ExportTask documents."""


@dataclass(frozen=True, slots=True)
class PlannedExport:
    """An export as it will run. `data` are rows of the request or of the job's training, `evaluation` held-out ones."""

    task: job_pb2.ExportTask
    model: BaseModel
    weights: LocatedWeights
    data: PlannedDataset | None = None
    evaluation: PlannedDataset | None = None
    remarks: list[check_pb2.Remark] = field(default_factory=list)


class ExportPlanner:
    """Plans exports. `folder` is on the disk that artifacts are written to, of which `reserve_bytes` stay free."""

    def __init__(
        self, inputs: Inputs, weights: WeightsLocator, models: Models, *, folder: Path, reserve_bytes: int
    ) -> None:
        self._inputs, self._weights, self._models = inputs, weights, models
        self._folder, self._reserve_bytes = folder, reserve_bytes

    async def plan(self, project: str, asked: job_pb2.ExportTask) -> PlannedExport:
        """Plan an export. Raises the errors that CreateJob documents."""
        task = job_pb2.ExportTask()
        task.CopyFrom(asked)
        if asked.artifact:
            task.weights.CopyFrom(weights_pb2.TrainedWeights(artifact=asked.artifact))
        place = f"{_EXPORT}.{'artifact' if asked.artifact else 'weights'}"
        located = await self._weights.locate(project, task.weights, f"{_EXPORT}.weights")
        # With its hash: other weights in their place are refused when the job runs.
        task.weights.sha256 = located.sha256
        task.format = task.format or artifact_pb2.EXPORT_FORMAT_TRANSFORMERS
        _require_format(task, located, place)
        model = await self._base(task, located)
        await asyncio.to_thread(_require_shape, task, model)
        task.max_prompts, task.max_new_tokens = task.max_prompts or PROMPTS, task.max_new_tokens or NEW_TOKENS
        data, evaluation = await self._rows(project, task, located)
        needed = await asyncio.to_thread(self._require_space, task, model, located)
        text = f"The export takes about {needed / 1e9:.2f} GB on the disk, and 6.5 bytes of memory for each weight."
        remarks = [check_pb2.Remark(code="EXPORT_SIZE", message=text)]
        return PlannedExport(task, model, located, data, evaluation, remarks)

    async def _base(self, task: job_pb2.ExportTask, located: LocatedWeights) -> BaseModel:
        """Locate the base, and set in the task which it is. A whole model is its own."""
        if located.kind == artifact_pb2.ARTIFACT_KIND_MODEL and not located.checkpoint:
            task.ClearField("base")
            return BaseModel(located.folder.name, located.folder, located.base.hub_id, located.base.revision)
        place = f"{_EXPORT}.base"
        if task.HasField("base"):
            model = await self._inputs.model(task.base, place)
        else:
            source = base_source(located)
            if source is None:
                raise invalid_field(place, "is needed: the adapter does not name its base by a hub id")
            task.base.CopyFrom(source)
            model = await asyncio.to_thread(self._models.relocate, source, located.base)
        locate.require_prepared(model, place)
        await asyncio.to_thread(_require_unquantized, model, place)
        await asyncio.to_thread(require_base, located, model, place)
        return model

    async def _rows(
        self, project: str, task: job_pb2.ExportTask, located: LocatedWeights
    ) -> tuple[PlannedDataset | None, PlannedDataset | None]:
        """Locate the rows that are asked: those of the request, or of the job that trained, as far as they are here."""
        if task.HasField("prompts"):
            return await self._inputs.dataset(project, task.prompts, f"{_EXPORT}.prompts"), None
        if located.spec is None:
            return None, None
        with suppress(DomainError):
            held_out = located.spec.evaluation.dataset
            found = await self._inputs.dataset(project, held_out, "job.train.spec.evaluation.dataset")
            if found is not None:
                return None, found
        with suppress(DomainError):
            return await self._inputs.dataset(project, located.spec.dataset, "job.train.spec.dataset"), None
        return None, None

    def _require_space(self, task: job_pb2.ExportTask, model: BaseModel, located: LocatedWeights) -> int:
        """Return the bytes that the export takes on disk. Raises ResourceExhausted EXPORT_TOO_LARGE."""
        lora = task.format == artifact_pb2.EXPORT_FORMAT_GGUF_LORA
        tensors = located.adapter.tensors if lora and located.adapter is not None else _tensors(model.folder)
        each = _BYTES.get(task.weight_type) or (4.0 if lora else 2.0 if task.format != _TRANSFORMERS else 0.0)
        weights = sum(math.prod(tensor.shape) * (each or _STORED.get(tensor.dtype, 4.0)) for tensor in tensors.values())
        needed = int(weights) + _BESIDE
        free = shutil.disk_usage(self._folder).free - self._reserve_bytes
        if needed > free:
            text = (
                f"the export takes {needed / 1e9:.2f} GB, and {max(0, free) / 1e9:.2f} GB are free on the server's disk"
            )
            raise ResourceExhausted(
                "EXPORT_TOO_LARGE",
                f"{_EXPORT}: {text}. Free {(needed - free) / 1e9:.2f} GB, or take a smaller weight type.",
                metadata={"needed_bytes": str(needed), "free_bytes": str(max(0, free))},
            )
        return needed


def base_source(located: LocatedWeights) -> model_pb2.ModelSource | None:
    """Return the base model that weights were trained on; None where they do not say."""
    if located.spec is not None:
        return located.spec.model
    if not located.base.hub_id:
        return None
    return model_pb2.ModelSource(hub=model_pb2.HubModel(id=located.base.hub_id, revision=located.base.revision))


def _require_format(task: job_pb2.ExportTask, located: LocatedWeights, place: str) -> None:
    """Raise InvalidArgument NOT_MERGEABLE or EXPORT_FORMAT_UNSUPPORTED for what a format cannot hold."""
    lora_file = task.format == artifact_pb2.EXPORT_FORMAT_GGUF_LORA
    if task.weight_type == artifact_pb2.WEIGHT_TYPE_Q8_0 and task.format != artifact_pb2.EXPORT_FORMAT_GGUF:
        raise _wrong("weight_type", "only a GGUF model has weights in Q8_0; take f16, bf16 or f32")
    method = _method(located)
    if method in NOT_MERGEABLE:
        if lora_file:
            raise _wrong("format", f"{GGUF_ADAPTER_ALONE}, and {NOT_MERGEABLE[method]}. {serve_beside(method)}")
        raise invalid_field(place, f"{NOT_MERGEABLE[method]}. {serve_beside(method)}", "NOT_MERGEABLE")
    if lora_file and method not in _LORA:
        raise _wrong("format", f"{GGUF_ADAPTER_ALONE}; take gguf or transformers")
    if lora_file and _is_dora(located):
        raise _wrong("format", "a GGUF adapter file cannot hold DoRA's magnitudes; merge it: take gguf or transformers")


def _method(located: LocatedWeights) -> str:
    """Method of weights, by its field in RunSpec."""
    if located.adapter is not None:
        return located.adapter.method
    return (located.spec.WhichOneof("method") or "full") if located.spec is not None else "full"


def _is_dora(located: LocatedWeights) -> bool:
    if located.adapter is not None:
        return bool(located.adapter.config.get("use_dora"))
    spec = located.spec
    return spec is not None and (spec.lora.weight_decomposed or spec.qlora.lora.weight_decomposed)


def _require_unquantized(model: BaseModel, place: str) -> None:
    quantized = json_object(model.folder / "config.json").get("quantization_config")
    if quantized:
        text = f"{model.name} is stored quantized, and weights are merged into 16-bit or 32-bit ones alone; "
        text += "name the model that it was made from"
        raise invalid_field(place, text, "MERGE_INTO_QUANTIZED")


def _require_shape(task: job_pb2.ExportTask, model: BaseModel) -> None:
    if task.format == _TRANSFORMERS:
        return
    kind = str(json_object(model.folder / "config.json").get("model_type", ""))
    if problem := shape_problem(kind):
        raise invalid_field(f"{_EXPORT}.format", problem, "EXPORT_ARCHITECTURE_UNSUPPORTED")


def _wrong(name: str, text: str) -> InvalidArgument:
    return invalid_field(f"{_EXPORT}.{name}", text, "EXPORT_FORMAT_UNSUPPORTED")


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    """Tensors of a model by its files' headers; none where they cannot be read, which the worker reports."""
    found: dict[str, StoredTensor] = {}
    for file in folder.glob("*.safetensors"):
        with suppress(OSError, WeightsError):
            found |= read_header(file)
    return found
