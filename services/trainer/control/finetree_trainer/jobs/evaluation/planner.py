# SPDX-License-Identifier: Apache-2.0
"""Plans evaluations: the subjects and their base located, the rows read, what needs no model filled in."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetree_api.trainer.v1 import evaluation_pb2
from finetree_api.types.v1 import check_pb2, training_data_pb2, training_pb2
from finetree_runtime.errors import DomainError, InvalidArgument, invalid_field
from finetree_runtime.runspec.number_formats import cpu_inference_precision

from finetree_trainer.estimator import Rates
from finetree_trainer.jobs.evaluation.subjects import PLACE, base_source, describe, fill_formats
from finetree_trainer.jobs.inputs import Inputs, PlannedDataset, require_accepted
from finetree_trainer.models import locate
from finetree_trainer.models.locate import BaseModel
from finetree_trainer.models.weights import LocatedWeights, WeightsLocator, require_base
from finetree_trainer.scheduling.devices import CPU, Device, resolve_hardware
from finetree_trainer.store.database import Store

EXAMPLES = 4
"""Examples in the prompt unless the task says otherwise."""
_OF_CHOICES = frozenset(
    {
        evaluation_pb2.EVALUATION_METRIC_CHOICE_ACCURACY,
        evaluation_pb2.EVALUATION_METRIC_CHOICE_ACCURACY_NORM,
        evaluation_pb2.EVALUATION_METRIC_CHOICE_ACCURACY_PER_TOKEN,
    }
)


@dataclass(slots=True)
class PlannedEvaluation:
    """An evaluation as it will run. `examples` are the rows that examples are taken from, None for none."""

    task: evaluation_pb2.EvaluateTask
    model: BaseModel
    device: Device
    rows: PlannedDataset
    examples: PlannedDataset | None = None
    remarks: list[check_pb2.Remark] = field(default_factory=list)
    weights: tuple[LocatedWeights, ...] = ()
    """Those of its subjects."""


class EvaluationPlanner:
    """Plans evaluations."""

    def __init__(
        self, inputs: Inputs, weights: WeightsLocator, store: Store, *, devices: Sequence[Device], rates: Rates
    ) -> None:
        self._inputs, self._weights, self._store, self._devices = inputs, weights, store, devices
        self._rates = rates

    async def plan(self, project: str, asked: evaluation_pb2.EvaluateTask) -> PlannedEvaluation:
        """Plan an evaluation. Raises the errors that CreateJob documents."""
        task = evaluation_pb2.EvaluateTask()
        task.CopyFrom(asked)
        subjects = [
            await self._weights.locate(project, subject.weights, f"{PLACE}.subjects[{i}].weights")
            for i, subject in enumerate(task.subjects)
        ]
        await describe(self._store, task, subjects)
        model = await self._base(task, subjects)
        rows = await self._rows(project, task)
        if max(task.hardware.count, task.hardware.nodes) > 1:
            text = "must be one device: weights are evaluated on one"
            raise invalid_field(f"{PLACE}.hardware", text, "SETTING_NOT_SUPPORTED")
        device = resolve_hardware(self._devices, task.hardware, f"{PLACE}.hardware")
        planned = PlannedEvaluation(task, model, device, rows, weights=tuple(subjects))
        fastest = cpu_inference_precision(self._rates()) if device.id == CPU else training_pb2.PRECISION_BF16
        fill_formats(task, subjects, fastest=fastest)
        await self._find_leaks(project, planned, subjects)
        planned.examples = await self._examples(project, planned, subjects)
        _fill_defaults(task)
        return planned

    async def _base(self, task: evaluation_pb2.EvaluateTask, subjects: Sequence[LocatedWeights]) -> BaseModel:
        """Locate the one base of all subjects, and name it in the task."""
        if not task.HasField("model"):
            task.model.CopyFrom(base_source(subjects))
        model = await self._inputs.model(task.model, f"{PLACE}.model")
        locate.require_prepared(model, f"{PLACE}.model")
        for i, found in enumerate(subjects):
            await asyncio.to_thread(require_base, found, model, f"{PLACE}.subjects[{i}].weights")
        return model

    async def _rows(self, project: str, task: evaluation_pb2.EvaluateTask) -> PlannedDataset:
        place = f"{PLACE}.dataset"
        rows = await self._inputs.dataset(project, task.dataset, place)
        if rows is None:
            raise invalid_field(place, "is needed: name held-out rows by name or path")
        require_accepted(rows, place)
        if {*task.metrics, task.decide_by} & _OF_CHOICES and not task.dataset.reading.columns.choices:
            text = "asks for metrics of choices; name their column in dataset.reading.columns.choices"
            raise invalid_field(f"{PLACE}.metrics", text, "NO_CHOICES")
        return rows

    async def _find_leaks(self, project: str, planned: PlannedEvaluation, subjects: Sequence[LocatedWeights]) -> None:
        """Mark the subjects that were trained on the very file that is evaluated on, by its hash."""
        for subject, found in zip(planned.task.subjects, subjects, strict=True):
            trained = await self._training_rows(project, found)
            if trained is not None and await asyncio.to_thread(_same_content, trained[1].file, planned.rows.file):
                subject.trained_on_rows = True
                text = f"{subject.label} was trained on the very file that is evaluated on: what it scores is memory."
                planned.remarks.append(check_pb2.Remark(code="HELD_OUT_ROWS_LEAKED", message=text))

    async def _training_rows(
        self, project: str, found: LocatedWeights
    ) -> tuple[training_data_pb2.DatasetSource, PlannedDataset] | None:
        """Return the rows that weights were trained on; None where they are not known or no longer there."""
        if found.spec is None or found.spec.dataset.WhichOneof("source") is None:
            return None
        source = training_data_pb2.DatasetSource()
        source.CopyFrom(found.spec.dataset)
        try:
            rows = await self._inputs.dataset(project, source, f"{PLACE}.few_shot.dataset")
        except DomainError:
            return None
        return None if rows is None else (source, rows)

    async def _examples(
        self, project: str, planned: PlannedEvaluation, subjects: Sequence[LocatedWeights]
    ) -> PlannedDataset | None:
        """Locate the rows that examples in the prompt are taken from, and name them in the task."""
        task, place = planned.task, f"{PLACE}.few_shot.dataset"
        asked = task.few_shot
        if asked.HasField("examples") and not asked.examples:
            asked.ClearField("dataset")
            return None
        if asked.HasField("dataset"):
            if not asked.HasField("examples"):
                asked.examples = EXAMPLES
            rows = await self._inputs.dataset(project, asked.dataset, place)
            require_accepted(rows, place)
            return rows
        for found in subjects:
            trained = await self._training_rows(project, found)
            if trained is not None:
                asked.dataset.CopyFrom(trained[0])
                return trained[1]
        if asked.HasField("examples"):
            raise invalid_field(place, "is needed: no subject's training rows are known; name rows with answers")
        asked.examples = 0
        text = "The base is not asked with examples in its prompt: no subject's training rows are known."
        planned.remarks.append(check_pb2.Remark(code="NO_EXAMPLES", message=text, field_path=place))
        return None


def _fill_defaults(task: evaluation_pb2.EvaluateTask) -> None:
    """Fill in the defaults that EvaluateTask documents, but for those that hang on the rows or the model."""
    defaults = {"max_new_tokens": 64, "samples": 5, "seed": 0, "resamples": 10_000}
    for name, value in defaults.items():
        if not task.HasField(name):  # type: ignore[arg-type]  # names from the table above
            setattr(task, name, value)


def require_no_choices(source: training_data_pb2.DatasetSource, field_path: str) -> None:
    """Raise InvalidArgument for rows of a training run that are read as questions with choices.

    The model would learn the answer without seeing the choices.
    """
    if source.reading.columns.choices:
        path = f"{field_path}.reading.columns.choices"
        text = "is for evaluations alone; write the choices into the prompt to train on them"
        raise InvalidArgument("INVALID_REQUEST", f"{path}: {text}.", violations=[(path, text, "INVALID_REQUEST")])


def _same_content(one: Path, other: Path) -> bool:
    """Return whether two files are equal, by their hashes. Files of datasets are named by them."""
    if one == other:
        return True
    try:
        if one.stat().st_size != other.stat().st_size:
            return False
        return _sha256(one) == _sha256(other)
    except OSError:
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
