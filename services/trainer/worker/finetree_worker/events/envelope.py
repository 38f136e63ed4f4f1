# SPDX-License-Identifier: Apache-2.0
"""The envelope of an event: the contract's payload with its time, its level and one line for people."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2, event_pb2, export_pb2, job_pb2, serving_pb2
from finetree_api.types.v1 import check_pb2, training_data_pb2

Payload = (
    event_pb2.PhaseProgress
    | event_pb2.DatasetReport
    | event_pb2.PreflightReport
    | event_pb2.AttemptStarted
    | event_pb2.StepMetrics
    | event_pb2.EvalMetrics
    | event_pb2.Sample
    | event_pb2.CheckpointSaved
    | event_pb2.CheckpointFailed
    | event_pb2.BatchSizeChanged
    | event_pb2.Forecast
    | event_pb2.ArtifactReady
    | event_pb2.LogLine
    | event_pb2.Alert
    | export_pb2.ExportReport
    | serving_pb2.ServingChanged
    | evaluation_pb2.EvaluationReport
)
"""What a task may report: the payloads of JobEvent that a worker makes."""
Level: TypeAlias = event_pb2.EventLevel.ValueType
_PAYLOADS = event_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["payload"].fields
_FIELDS = {field.message_type.name: field.name for field in _PAYLOADS if field.message_type is not None}


class Reporter(Protocol):
    """Receives a task's payloads. `emit` returns within microseconds: it is called from the training thread."""

    def emit(self, payload: Payload, /, *, message: str = "", level: Level = event_pb2.EVENT_LEVEL_UNSPECIFIED) -> None:
        """Report a payload, which is not changed afterwards. What is not given is derived from it: see `envelope`."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Time of a report: nanoseconds of the worker's clock, and seconds since the attempt began."""

    wall_ns: int
    elapsed: float


def envelope(
    payload: Payload,
    stamp: Stamp,
    *,
    attempt: int,
    message: str = "",
    level: Level = event_pb2.EVENT_LEVEL_UNSPECIFIED,
) -> event_pb2.JobEvent:
    """Build the event of a payload; an empty message and an unspecified level become those of the payload's kind."""
    name = _FIELDS[type(payload).__name__]
    event = event_pb2.JobEvent(
        attempt=attempt,
        kind=event_pb2.EventKind.Value(f"EVENT_KIND_{name.upper()}"),
        level=level or level_of(payload),
        message=message or line_of(payload),
    )
    event.elapsed.FromNanoseconds(max(0, int(stamp.elapsed * 1e9)))
    event.worker_time.FromNanoseconds(stamp.wall_ns)
    getattr(event, name).CopyFrom(payload)
    return event


def level_of(payload: Payload) -> Level:
    """Return the level of a payload of its kind."""
    match payload:
        case event_pb2.PreflightReport():
            failed = any(check.verdict == check_pb2.CHECK_VERDICT_FAIL for check in payload.checks)
            return event_pb2.EVENT_LEVEL_ERROR if failed else event_pb2.EVENT_LEVEL_INFO
        case event_pb2.StepMetrics():
            return event_pb2.EVENT_LEVEL_WARNING if payload.non_finite else event_pb2.EVENT_LEVEL_INFO
        case event_pb2.Alert() | event_pb2.CheckpointFailed() | event_pb2.BatchSizeChanged():
            return event_pb2.EVENT_LEVEL_WARNING
        case event_pb2.LogLine():
            return event_pb2.EVENT_LEVEL_DEBUG
        case _:
            return event_pb2.EVENT_LEVEL_INFO


def line_of(payload: Payload) -> str:
    """Return a payload as one line for people."""
    return _LINES[type(payload)](payload)


def phase_name(phase: job_pb2.JobPhase.ValueType) -> str:
    """Return a phase's name for people, such as "load model"."""
    return job_pb2.JobPhase.Name(phase).removeprefix("JOB_PHASE_").lower().replace("_", " ")


def duration(seconds: float) -> str:
    """Return seconds as people write them, such as "3 min 20 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _dataset_report(report: event_pb2.DatasetReport) -> str:
    split = training_data_pb2.Split.Name(report.split).removeprefix("SPLIT_").lower()
    line = f"{split}: {report.profile.examples} rows, {report.profile.total_tokens} tokens"
    line += f", {report.skipped.count} bad rows skipped" if report.skipped.count else ""
    return line + (", tokens from the cache" if report.tokens_from_cache else "")


def _step_metrics(step: event_pb2.StepMetrics) -> str:
    loss = f"{step.loss:.4f}" if step.HasField("loss") else "not finite"
    return f"step {step.step}/{step.total_steps} · loss {loss} · {step.tokens_per_second:.0f} tokens/s"


def _eval_metrics(metrics: event_pb2.EvalMetrics) -> str:
    measured = [name for name in ("loss", "token_accuracy", "exact_match") if metrics.HasField(name)]
    numbers = [f"{name.replace('_', ' ')} {getattr(metrics, name):.4g}" for name in measured]
    return " · ".join([f"evaluation at step {metrics.step}", *numbers])


def _batch_size_changed(change: event_pb2.BatchSizeChanged) -> str:
    rows = f" and from {change.previous_rows} to {change.current_rows} rows" if change.previous_rows else ""
    return f"memory ran out: micro-batch cut from {change.previous} to {change.current} tokens{rows}"


def _artifact_ready(ready: event_pb2.ArtifactReady) -> str:
    return f"{ready.artifact.name.rpartition('/')[2]} is ready, {ready.artifact.size_bytes} bytes"


def _export_report(report: export_pb2.ExportReport) -> str:
    kind = artifact_pb2.ExportFormat.Name(report.format).removeprefix("EXPORT_FORMAT_").lower().replace("_", " ")
    weights = artifact_pb2.WeightType.Name(report.weight_type).removeprefix("WEIGHT_TYPE_").lower()
    trained = next((c for c in report.comparisons if c.model == export_pb2.COMPARED_MODEL_TRAINED), None)
    line = f"{kind} in {weights}"
    if trained is None:
        return line
    answers = f"{trained.equal_answers} of {report.prompts} answers as before"
    return f"{line}: {answers}, logits differ by up to {trained.largest_difference:.3g}"


def _serving_changed(change: serving_pb2.ServingChanged) -> str:
    loaded = ", ".join(target.name for target in change.targets) or "none"
    if change.change == serving_pb2.SERVING_CHANGE_READY:
        return f"ready to answer; targets: {loaded}"
    verb = "loaded" if change.change == serving_pb2.SERVING_CHANGE_LOADED else "removed"
    return f"{change.target} {verb}; targets: {loaded}"


_LINES: dict[type, Callable[[Any], str]] = {
    event_pb2.PhaseProgress: lambda progress: f"{phase_name(progress.phase)} {progress.fraction:.0%}",
    event_pb2.DatasetReport: _dataset_report,
    event_pb2.PreflightReport: lambda report: report.checks[0].message if report.checks else "preflight",
    event_pb2.AttemptStarted: lambda started: f"attempt started from step {started.restored_step}",
    event_pb2.StepMetrics: _step_metrics,
    event_pb2.EvalMetrics: _eval_metrics,
    event_pb2.Sample: lambda sample: f"{sample.prompt[:60]!r}: {sample.after[:60]!r}",
    event_pb2.CheckpointSaved: lambda saved: f"checkpoint at step {saved.step} saved",
    event_pb2.CheckpointFailed: lambda failed: f"checkpoint at step {failed.step} failed: {failed.reason}",
    event_pb2.BatchSizeChanged: _batch_size_changed,
    event_pb2.Forecast: lambda forecast: f"about {duration(forecast.eta_seconds.expected)} remain",
    event_pb2.ArtifactReady: _artifact_ready,
    event_pb2.LogLine: lambda line: line.text.partition("\n")[0][:200],
    event_pb2.Alert: lambda alert: alert.message,
    export_pb2.ExportReport: _export_report,
    serving_pb2.ServingChanged: _serving_changed,
    evaluation_pb2.EvaluationReport: lambda report: report.headline,
}
