# SPDX-License-Identifier: Apache-2.0
"""What a job's latest events say about it: progress, newest metrics, cost so far."""

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2

TRAIN_SHARES: tuple[tuple[job_pb2.JobPhase.ValueType, float], ...] = (
    (job_pb2.JOB_PHASE_START, 0.01),
    (job_pb2.JOB_PHASE_CONVERT_MODEL, 0.01),
    (job_pb2.JOB_PHASE_LOAD_MODEL, 0.03),
    (job_pb2.JOB_PHASE_TOKENIZE, 0.03),
    (job_pb2.JOB_PHASE_EVALUATE_BEFORE, 0.05),
    (job_pb2.JOB_PHASE_TRAIN, 0.79),
    (job_pb2.JOB_PHASE_EVALUATE_AFTER, 0.06),
    (job_pb2.JOB_PHASE_SAVE, 0.02),
)
"""Share of a TRAIN job that each phase stands for in a progress bar. A convention, not a prediction: the ETA comes from
measured steps."""

PREPARE_SHARES: tuple[tuple[job_pb2.JobPhase.ValueType, float], ...] = (
    (job_pb2.JOB_PHASE_START, 0.05),
    (job_pb2.JOB_PHASE_DOWNLOAD_MODEL, 0.35),
    (job_pb2.JOB_PHASE_CONVERT_MODEL, 0.3),
    (job_pb2.JOB_PHASE_LOAD_MODEL, 0.1),
    (job_pb2.JOB_PHASE_TOKENIZE, 0.15),
    (job_pb2.JOB_PHASE_SAVE, 0.05),
)
"""Share of a PREPARE job that each phase stands for in a progress bar."""

EXPORT_SHARES: tuple[tuple[job_pb2.JobPhase.ValueType, float], ...] = (
    (job_pb2.JOB_PHASE_START, 0.02),
    (job_pb2.JOB_PHASE_LOAD_MODEL, 0.03),
    (job_pb2.JOB_PHASE_MERGE, 0.35),
    (job_pb2.JOB_PHASE_EXPORT, 0.2),
    (job_pb2.JOB_PHASE_VERIFY, 0.4),
)
"""Share of an EXPORT job that each phase stands for in a progress bar."""

EVALUATE_SHARES: tuple[tuple[job_pb2.JobPhase.ValueType, float], ...] = (
    (job_pb2.JOB_PHASE_START, 0.02),
    (job_pb2.JOB_PHASE_LOAD_MODEL, 0.04),
    (job_pb2.JOB_PHASE_TOKENIZE, 0.04),
    (job_pb2.JOB_PHASE_EVALUATE, 0.85),
    (job_pb2.JOB_PHASE_SAVE, 0.05),
)
"""Share of an EVALUATE job that each phase stands for in a progress bar."""

SERVE_SHARES: tuple[tuple[job_pb2.JobPhase.ValueType, float], ...] = (
    (job_pb2.JOB_PHASE_START, 0.2),
    (job_pb2.JOB_PHASE_LOAD_MODEL, 0.8),
    (job_pb2.JOB_PHASE_SERVE, 0.0),
)
"""Share of the way of a SERVE job to its first answer that each phase stands for in a progress bar."""

_VERSIONS = frozenset(
    {
        *("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers"),
        *("finetree-worker", "python"),
    }
)
"""Entries of AttemptStarted.environment that are versions, which a job's lineage keeps."""

_SHARES = {
    job_pb2.TASK_KIND_PREPARE: PREPARE_SHARES,
    job_pb2.TASK_KIND_EXPORT: EXPORT_SHARES,
    job_pb2.TASK_KIND_EVALUATE: EVALUATE_SHARES,
    job_pb2.TASK_KIND_SERVE: SERVE_SHARES,
}


def fraction(task: int, phase: int, within: float) -> float:
    """Share of the whole job that is done when `phase` is done to `within` (0 to 1)."""
    done = 0.0
    for known, share in _SHARES.get(job_pb2.TaskKind.ValueType(task), TRAIN_SHARES):
        if known == phase:
            return min(1.0, done + share * min(1.0, max(0.0, within)))
        done += share
    return 0.0


def update(snapshot: job_pb2.Job, event: event_pb2.JobEvent, task: int) -> None:
    """Bring the changing part of a job with a task (a TaskKind) up to date with an event."""
    match event.WhichOneof("payload"):
        case "phase_progress":
            snapshot.progress.phase = event.phase_progress.phase
            _advance(snapshot, fraction(task, event.phase_progress.phase, event.phase_progress.fraction))
        case "step_metrics":
            _step(snapshot, event.step_metrics)
        case "eval_metrics":
            _evaluation(snapshot, event.eval_metrics)
        case "checkpoint_saved" if event.checkpoint_saved.best:
            snapshot.best_checkpoint_step = event.checkpoint_saved.step
        case "forecast":
            snapshot.progress.eta_seconds.CopyFrom(event.forecast.eta_seconds)
        case "attempt_started":
            _attempt(snapshot, event.attempt_started)
        case "artifact_ready":
            _rows(snapshot, event.artifact_ready.artifact.lineage)
        case "serving_changed":
            snapshot.serve.SetInParent()
            del snapshot.serve.loaded[:]
            snapshot.serve.loaded.extend(event.serving_changed.targets)
        case "terminal" if event.terminal.state == job_pb2.JOB_STATE_SUCCEEDED:
            snapshot.progress.fraction = 1.0
            snapshot.progress.ClearField("eta_seconds")


def _attempt(snapshot: job_pb2.Job, started: event_pb2.AttemptStarted) -> None:
    snapshot.progress.step = started.restored_step
    for name in _VERSIONS & started.environment.keys():
        snapshot.lineage.versions[name] = started.environment[name]


def _rows(snapshot: job_pb2.Job, lineage: artifact_pb2.Lineage) -> None:
    """Keep what the worker says of the rows that it has read: their hashes."""
    if lineage.datasets:
        del snapshot.lineage.datasets[:]
        snapshot.lineage.datasets.extend(lineage.datasets)


def _advance(snapshot: job_pb2.Job, done: float) -> None:
    snapshot.progress.fraction = max(snapshot.progress.fraction, done)


def _step(snapshot: job_pb2.Job, step: event_pb2.StepMetrics) -> None:
    progress, metrics = snapshot.progress, snapshot.metrics
    progress.phase = job_pb2.JOB_PHASE_TRAIN
    progress.step, progress.total_steps = step.step, step.total_steps
    within = step.step / max(1, step.total_steps)
    _advance(snapshot, fraction(job_pb2.TASK_KIND_TRAIN, job_pb2.JOB_PHASE_TRAIN, within))
    if step.HasField("eta_seconds"):
        progress.eta_seconds.CopyFrom(step.eta_seconds)
    if step.HasField("loss"):
        metrics.loss = step.loss
    metrics.learning_rate = step.learning_rate
    metrics.tokens_per_second = step.tokens_per_second
    metrics.peak_memory_bytes = max(metrics.peak_memory_bytes, step.peak_memory_bytes)
    if step.HasField("cost_so_far"):
        snapshot.cost.amount.CopyFrom(step.cost_so_far)


def _evaluation(snapshot: job_pb2.Job, evaluation: event_pb2.EvalMetrics) -> None:
    if evaluation.HasField("loss"):
        snapshot.metrics.eval_loss = evaluation.loss
    if evaluation.HasField("exact_match"):
        snapshot.metrics.exact_match = evaluation.exact_match
