# SPDX-License-Identifier: Apache-2.0
"""Evaluations of the fake trainer: planned as the trainer does, but for weights, which nobody looks for."""

from __future__ import annotations

from finetree_api.trainer.v1 import evaluation_pb2
from finetree_api.types.v1 import training_pb2

from finetree.testing.requests import invalid
from finetree.testing.trainer.datasets import FakeDatasets

PLACE = "job.evaluate"


def plan_evaluation(asked: evaluation_pb2.EvaluateTask, datasets: FakeDatasets) -> evaluation_pb2.EvaluateTask:
    """Fill in the defaults of an evaluation.

    Raises:
        FinetreeError: a subject or a label is there twice, or a dataset is not.
    """
    task = evaluation_pb2.EvaluateTask()
    task.CopyFrom(asked)
    seen: set[bytes] = set()
    for i, subject in enumerate(task.subjects):
        place = f"{PLACE}.subjects[{i}]"
        weights = subject.weights.SerializeToString(deterministic=True)
        subject.label = subject.label or f"subject {i + 1}"
        if weights in seen:
            raise invalid(f"{place}.weights", "is named twice; name each once", "SUBJECT_REPEATED")
        if subject.label in [other.label for other in task.subjects[:i]]:
            raise invalid(f"{place}.label", "is that of another subject; give each its own", "SUBJECT_REPEATED")
        seen.add(weights)
    if datasets.located(task.dataset, f"{PLACE}.dataset", trains=True) is None:
        raise invalid(f"{PLACE}.dataset", "is needed: name held-out rows by name or path")
    if task.few_shot.HasField("dataset"):
        datasets.located(task.few_shot.dataset, f"{PLACE}.few_shot.dataset", trains=True)
    defaults = {"max_new_tokens": 64, "samples": 5, "seed": 0, "resamples": 10_000}
    for name, value in defaults.items():
        if not task.HasField(name):  # type: ignore[arg-type]  # names from the table above
            setattr(task, name, value)
    task.precision = task.precision or training_pb2.PRECISION_BF16
    return task
