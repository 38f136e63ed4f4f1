# SPDX-License-Identifier: Apache-2.0
"""Requests about evaluations, built from what a caller writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2
from finetree_api.types.v1 import method_pb2, training_pb2, weights_pb2

from finetree._shared.requests import enum_number, invalid
from finetree._shared.trainer_requests import DatasetLike, ModelLike, dataset_source, full_name, model_source
from finetree.errors import NotFound
from finetree.spec import coerce

SubjectLike = evaluation_pb2.EvaluationSubject | weights_pb2.TrainedWeights | Mapping[str, Any] | str
WEIGHTS = (artifact_pb2.ARTIFACT_KIND_ADAPTER, artifact_pb2.ARTIFACT_KIND_MODEL)
"""Kinds of artifacts that are trained weights."""


def job_of(project: str, subject: SubjectLike) -> str:
    """Return the full name of the job that a subject names, whose artifact is meant; "" for any other subject."""
    _, name = _labelled(subject)
    if not isinstance(name, str) or "/artifacts/" in name or "/checkpoints/" in name:
        return ""
    return full_name(project, "jobs", name)


def _labelled(subject: SubjectLike) -> tuple[str, Any]:
    """Return the label that a mapping gives its weights, "" for none, and the weights."""
    if isinstance(subject, Mapping) and "weights" in subject:
        return str(subject.get("label", "")), subject["weights"]
    return "", subject


def weights_artifact(job: str, artifacts: Iterable[artifact_pb2.Artifact]) -> str:
    """Return the name of the trained weights that a job made; of several attempts, the newest.

    Raises:
        NotFound: ARTIFACT_NOT_FOUND: it has made none, or not yet.
    """
    found = sorted((one for one in artifacts if one.kind in WEIGHTS), key=lambda one: one.attempt)
    if not found:
        raise NotFound(f"job {job} has no trained weights, or not yet", reason="ARTIFACT_NOT_FOUND")
    return found[-1].name


def subject_of(subject: SubjectLike, artifact: str = "") -> evaluation_pb2.EvaluationSubject:
    """Make a subject; a text is the name of an artifact or a checkpoint, or of a job that made `artifact`."""
    if isinstance(subject, evaluation_pb2.EvaluationSubject):
        return subject
    label, weights = _labelled(subject)
    if isinstance(weights, str):
        kind = "checkpoint" if "/checkpoints/" in weights else "artifact"
        weights = {kind: artifact or weights}
    found = coerce(weights_pb2.TrainedWeights, weights, prefix="subjects.weights")
    return evaluation_pb2.EvaluationSubject(weights=found, label=label)


def evaluate_task(
    subjects: Sequence[evaluation_pb2.EvaluationSubject],
    dataset: DatasetLike,
    *,
    model: ModelLike | None = None,
    metrics: Sequence[str | int] = (),
    decide_by: str | int = 0,
    examples: int | None = None,
    examples_from: DatasetLike | None = None,
    max_new_tokens: int | None = None,
    max_rows: int | None = None,
    samples: int | None = None,
    seed: int | None = None,
    resamples: int | None = None,
    sequence_length: int | None = None,
    precision: str | int = 0,
    quantization: str | int = 0,
) -> evaluation_pb2.EvaluateTask:
    """Build an EvaluateTask."""
    if not subjects:
        raise invalid("subjects", "name at least one job, artifact, checkpoint or folder of trained weights")
    task = evaluation_pb2.EvaluateTask(
        subjects=subjects,
        model=None if model is None else model_source(model),
        dataset=dataset_source(dataset, "dataset"),
        metrics=[enum_number(evaluation_pb2.EvaluationMetric, metric, "metrics") for metric in metrics],
        decide_by=enum_number(evaluation_pb2.EvaluationMetric, decide_by, "decide_by"),
        max_new_tokens=max_new_tokens,
        max_rows=max_rows,
        samples=samples,
        seed=seed,
        resamples=resamples,
        sequence_length=sequence_length,
        precision=enum_number(training_pb2.Precision, precision, "precision"),
        quantization=enum_number(method_pb2.Quantization, quantization, "quantization"),
    )
    if examples is not None:
        task.few_shot.examples = examples
    if examples_from is not None:
        task.few_shot.dataset.CopyFrom(dataset_source(examples_from, "examples_from"))
    return task
