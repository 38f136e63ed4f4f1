# SPDX-License-Identifier: Apache-2.0
"""A job's metrics as CSV: a row for each step, each evaluation, and each attempt that begins to train."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from finetree_api.trainer.v1 import event_pb2, job_pb2

STEP = (
    *("epoch", "processed_tokens", "target_tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second"),
    *("step_seconds", "memory_bytes", "peak_memory_bytes", "padding_fraction", "shared_tokens"),
)
"""Fields of StepMetrics that are columns."""
EVALUATION = ("loss", "loss_standard_error", "perplexity", "token_accuracy", "exact_match", "examples", "rows")
"""Fields of EvalMetrics that are columns, behind "eval_"."""
COLUMNS = ("seq", "time", "attempt", "row", "step", *STEP, *(f"eval_{name}" for name in EVALUATION))
FILE_NAME = "metrics.csv"


def file_name(job: job_pb2.Job) -> str:
    """Name of the file."""
    del job
    return FILE_NAME


def beginning(job: job_pb2.Job) -> bytes:
    """The line of the columns' names."""
    del job
    return _line(COLUMNS)


def part(event: event_pb2.JobEvent) -> bytes:
    """The row of an event; nothing of one that has no metrics.

    Where an attempt goes on from a checkpoint, a row "attempt" has the step of the checkpoint: rows after it replace
    those before it with higher steps.
    """
    match event.WhichOneof("payload"):
        case "step_metrics":
            metrics = event.step_metrics
            return _row(event, "step", metrics.step, values=[*_values(metrics, STEP), *[""] * len(EVALUATION)])
        case "eval_metrics":
            found = event.eval_metrics
            values = [*[""] * len(STEP), *_values(found, EVALUATION)]
            return _row(event, "evaluation", found.step, values=values)
        case "attempt_started":
            blank = [""] * (len(STEP) + len(EVALUATION))
            return _row(event, "attempt", event.attempt_started.restored_step, values=blank)
        case _:
            return b""


def _row(event: event_pb2.JobEvent, kind: str, step: int, *, values: list[str]) -> bytes:
    return _line((str(event.seq), event.event_time.ToJsonString(), str(event.attempt), kind, str(step), *values))


def _values(metrics: Any, names: tuple[str, ...]) -> Iterator[str]:
    """The fields as text, empty where one is not set: it was not finite, or not measured."""
    for name in names:
        optional = metrics.DESCRIPTOR.fields_by_name[name].has_presence
        yield "" if optional and not metrics.HasField(name) else repr(getattr(metrics, name))


def _line(cells: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
