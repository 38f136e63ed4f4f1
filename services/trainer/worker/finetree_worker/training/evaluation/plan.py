# SPDX-License-Identifier: Apache-2.0
"""An evaluation task as frozen values."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from finetree_api.trainer.v1 import evaluation_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.contract import reading_of
from transformers import BitsAndBytesConfig

from finetree_worker import spec_values
from finetree_worker.methods import method_of
from finetree_worker.methods.weights import Weights
from finetree_worker.plan import UNLIMITED, BaseModel, DataPlan, Precision
from finetree_worker.plan_from_task import device_kind, free_folder
from finetree_worker.tokenize.rows import RowSource
from finetree_worker.training.evaluation.bootstrap import RESAMPLES
from finetree_worker.training.evaluation.metrics import MetricKind

ARTIFACT_FOLDER = "evaluation"
"""Id of an evaluation's artifact."""
FEW_SHOT_EXAMPLES = 4
"""Examples in the prompt of the base unless the task says otherwise."""
_DTYPES = {Precision.FP32: torch.float32, Precision.FP16_MIXED: torch.float16}


@dataclass(frozen=True, slots=True)
class SubjectPlan:
    """Trained weights that are evaluated. `leaked`: they were trained on the very file of the held-out rows."""

    label: str
    weights: Weights
    method: str = ""
    leaked: bool = False


@dataclass(frozen=True, slots=True)
class FewShotPlan:
    """Examples for the prompt: where they come from, and how many. `asked`: the task names them, they must be there."""

    source: RowSource
    examples: int
    asked: bool


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """An evaluation task with all its settings.

    `data.train` is the file of held-out rows; its sequence length is that of the task, which the model may lower.
    `artifact` is the folder that the report is renamed to, `results` where the job's attempts keep what they measured.
    """

    job: str
    base: BaseModel
    subjects: tuple[SubjectPlan, ...]
    data: DataPlan
    artifact: Path
    results: Path
    digest: str
    few_shot: FewShotPlan | None = None
    metrics: tuple[MetricKind, ...] = ()
    """Empty: all that the rows allow."""
    decide_by: MetricKind = evaluation_pb2.EVALUATION_METRIC_UNSPECIFIED
    max_new_tokens: int = 64
    max_rows: int = 0
    """0: all."""
    samples: int = 5
    seed: int = 0
    resamples: int = RESAMPLES
    precision: Precision = Precision.BF16
    quantized_as: method_pb2.Quantization.ValueType = method_pb2.QUANTIZATION_UNSPECIFIED
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """Type that the base is loaded in."""
        return _DTYPES.get(self.precision, torch.bfloat16)

    @property
    def quantization(self) -> BitsAndBytesConfig | None:
        """How the base is quantized on loading; None where it is not."""
        if not self.quantized_as:
            return None
        spec = run_spec_pb2.RunSpec(qlora=method_pb2.Qlora(quantization=self.quantized_as))
        return method_of(spec).quantization(self.dtype)


def evaluation_plan(task: worker_pb2.Task) -> EvaluationPlan:
    """Return the plan of a task that evaluates. Raises PlanError SETTING_NOT_SUPPORTED."""
    asked, folders = task.evaluate, task.folders
    precision: Precision = spec_values.value_of(asked, "precision", spec_values.PRECISIONS)
    return EvaluationPlan(
        job=task.job,
        base=BaseModel(Path(task.base.model_dir), task.base.hub_id, task.base.hub_revision),
        subjects=tuple(_subjects(task)),
        data=_data(task),
        artifact=free_folder(Path(folders.artifact_dir), ARTIFACT_FOLDER, task.attempt),
        results=Path(folders.checkpoint_dir or folders.work_dir),
        # Paths are the same for all attempts of a job.
        digest=asked.SerializeToString(deterministic=True).hex(),
        few_shot=_few_shot(task),
        metrics=tuple(sorted(asked.metrics)),
        decide_by=asked.decide_by,
        precision=precision,
        quantized_as=asked.quantization,
        device=device_kind(task),
        threads=max(1, task.threads),
        **spec_values.stated(asked, "max_new_tokens", "max_rows", "samples", "seed", "resamples"),
    )


def _subjects(task: worker_pb2.Task) -> Iterable[SubjectPlan]:
    for subject, weights in zip(task.evaluate.subjects, task.weights, strict=True):
        yield SubjectPlan(subject.label, Weights.from_message(weights), subject.method, subject.trained_on_rows)


def _data(task: worker_pb2.Task) -> DataPlan:
    asked, folders = task.evaluate, task.folders
    cache: dict[str, Any] = {}
    if folders.token_cache_dir:
        cache = {"token_cache": Path(folders.token_cache_dir), "token_cache_bytes": folders.token_cache_bytes}
    return DataPlan(
        train=Path(task.evaluation_file),
        scratch=Path(folders.work_dir),
        reading=reading_of(asked.dataset),
        split_seed=asked.seed,
        sequence_length=asked.sequence_length if asked.HasField("sequence_length") else UNLIMITED,
        **cache,
    )


def _few_shot(task: worker_pb2.Task) -> FewShotPlan | None:
    asked = task.evaluate.few_shot
    count = asked.examples if asked.HasField("examples") else FEW_SHOT_EXAMPLES
    if not task.dataset_file or not count:
        return None
    source = RowSource(Path(task.dataset_file), reading_of(asked.dataset), "few_shot.dataset")
    return FewShotPlan(source, count, asked=asked.HasField("examples"))
