# SPDX-License-Identifier: Apache-2.0
"""From the core's events to the contract's: payload, kind, level and one line for people."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_api.worker.v1 import worker_pb2

from finetree_worker.events import types
from finetree_worker.events.convert_report import SplitReport, to_message
from finetree_worker.events.memory_check import memory_check
from finetree_worker.events.summary import RunRecord

FORECASTS = 10
"""Forecasts in a run: one for each tenth of its steps."""
_LEVELS = {
    types.Level.INFO: event_pb2.EVENT_LEVEL_INFO,
    types.Level.WARNING: event_pb2.EVENT_LEVEL_WARNING,
    types.Level.ERROR: event_pb2.EVENT_LEVEL_ERROR,
}


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a library's or the worker's log; level None is detail."""

    level: types.Level | None
    logger: str
    text: str


@dataclass(frozen=True, slots=True)
class Published:
    """An artifact whose manifest is written."""

    artifact: artifact_pb2.Artifact


Report = types.Event | SplitReport | LogLine | Published


@dataclass(frozen=True, slots=True)
class Stamp:
    """When an event was made: nanoseconds of the worker's clock, seconds since the attempt began."""

    wall_ns: int
    elapsed: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attempt runs, for people."""

    name: str
    environment: dict[str, str]


def phase_of(phase: types.Phase) -> job_pb2.JobPhase.ValueType:
    """The contract's name of a phase."""
    return job_pb2.JobPhase.Value(f"JOB_PHASE_{phase.name}")


class Translator:
    """Translates one task's events in order; keeps the record that its forecasts and its summary come from."""

    def __init__(self, task: worker_pb2.Task, place: Place) -> None:
        self.record = RunRecord(task.spec)
        self._task, self._place = task, place
        self._forecast = 0
        self._to_payload: dict[type, Callable[[Any], tuple[str, Any, str]]] = {
            types.PhaseProgress: self._phase_progress,
            types.DatasetReport: self._dataset_report,
            types.AttemptStarted: self._attempt_started,
            types.StepMetrics: self._step_metrics,
            types.EvalMetrics: self._eval_metrics,
            types.Sample: self._sample,
            types.CheckpointSaved: self._checkpoint_saved,
            types.CheckpointFailed: self._checkpoint_failed,
            types.BatchSizeChanged: self._batch_size_changed,
            types.PreflightReport: self._preflight_report,
            types.BestRestored: self._best_restored,
            types.Alert: self._alert,
            SplitReport: self._split_report,
            LogLine: self._log_line,
            Published: self._artifact_ready,
        }

    def translate(self, event: Report, stamp: Stamp) -> Iterator[event_pb2.JobEvent]:
        """The event, and a forecast behind it where one is due."""
        name, payload, message = self._to_payload[type(event)](event)
        if isinstance(event, types.PhaseProgress):
            self.record.phase(event, stamp.elapsed)
        yield self._envelope(name, payload, message, _level(event), stamp)
        if isinstance(event, types.StepMetrics) and (forecast := self._forecast_at(event, stamp.elapsed)) is not None:
            line = f"about {_duration(forecast.eta_seconds.expected)} remain"
            yield self._envelope("forecast", forecast, line, event_pb2.EVENT_LEVEL_INFO, stamp)

    def _envelope(
        self, name: str, payload: Any, message: str, level: event_pb2.EventLevel.ValueType, stamp: Stamp
    ) -> event_pb2.JobEvent:
        kind = event_pb2.EventKind.Value(f"EVENT_KIND_{name.upper()}")
        event = event_pb2.JobEvent(type=f"finetree.job.{name}", kind=kind, level=level, message=message)
        event.attempt = self._task.attempt
        event.elapsed.FromNanoseconds(max(0, int(stamp.elapsed * 1e9)))
        event.worker_time.FromNanoseconds(stamp.wall_ns)
        getattr(event, name).CopyFrom(payload)
        return event

    def _phase_progress(self, event: types.PhaseProgress) -> tuple[str, Any, str]:
        payload = event_pb2.PhaseProgress(
            phase=phase_of(event.phase), fraction=event.fraction, done=event.done, total=event.total, unit=event.unit
        )
        return "phase_progress", payload, event.message or f"{event.phase.value.replace('_', ' ')} {event.fraction:.0%}"

    def _dataset_report(self, event: types.DatasetReport) -> tuple[str, Any, str]:
        self.record.ahead.rows(event)
        return self._split_report(SplitReport(event, "train"))

    def _split_report(self, split: SplitReport) -> tuple[str, Any, str]:
        event = split.report
        line = f"{split.split}: {event.train_rows} rows, {event.total_tokens} tokens"
        line += f", {event.skipped_rows} bad rows left out" if event.skipped_rows else ""
        line += ", kept from an earlier task" if event.from_cache else ""
        return "dataset_report", to_message(split), line

    def _attempt_started(self, event: types.AttemptStarted) -> tuple[str, Any, str]:
        reason = "first" if self._task.attempt <= 1 else "recovered"
        # On a CPU the core names the vector instructions: they decide the rounding, but are no place.
        device = f"CPU with {event.device}" if self._task.device == "cpu" else event.device
        facts = {"precision": event.precision, "threads": str(event.threads)}
        facts |= {"trainable_parameters": str(event.trainable_parameters), "parameters": str(event.total_parameters)}
        payload = event_pb2.AttemptStarted(
            restored_step=event.restored_step,
            reason=reason,
            devices=[device],
            environment=self._place.environment | facts,
            placement=self._place.name,
        )
        where = f"goes on from step {event.restored_step}" if event.restored_step else "starts"
        return "attempt_started", payload, f"attempt {self._task.attempt} {where} on {device}"

    def _step_metrics(self, event: types.StepMetrics) -> tuple[str, Any, str]:
        self.record.step(event)
        metrics = event_pb2.StepMetrics(
            step=event.step,
            total_steps=event.total_steps,
            loss=event.loss,
            non_finite=event.loss is None or event.grad_norm is None,
            learning_rate=event.learning_rate,
            tokens_per_second=event.tokens_per_second,
            grad_norm=event.grad_norm,
            memory_bytes=event.memory_bytes,
            peak_memory_bytes=self.record.peak_memory_bytes,
            epoch=event.epoch,
            processed_tokens=event.tokens,
            target_tokens=event.target_tokens,
            step_seconds=event.step_seconds,
            eta_seconds=self.record.remaining(event),
            cost_so_far=self._task.hourly_cost * event.elapsed_seconds / 3600,
            padding_fraction=event.padding_share,
        )
        if event.device is not None:
            metrics.devices.add(
                utilization_percent=event.device.utilization,
                used_bytes=event.device.memory_bytes,
                power_watts=event.device.power_watts,
            )
        loss = "not finite" if event.loss is None else f"{event.loss:.4f}"
        line = f"step {event.step}/{event.total_steps} · loss {loss} · {event.tokens_per_second:.0f} tokens/s"
        return "step_metrics", metrics, line

    def _forecast_at(self, event: types.StepMetrics, elapsed: float) -> event_pb2.Forecast | None:
        tenth = event.step * FORECASTS // max(1, event.total_steps)
        remaining = self.record.remaining(event)
        if remaining is None or tenth < self._forecast or event.step >= event.total_steps:
            return None
        self._forecast = tenth + 1
        total, cost = evidence_pb2.Interval(), evidence_pb2.Interval()
        for target, per_second in ((total, 1.0), (cost, self._task.hourly_cost / 3600)):
            target.CopyFrom(remaining)
            target.low, target.expected, target.high = (
                (elapsed + value) * per_second for value in (remaining.low, remaining.expected, remaining.high)
            )
        forecast = event_pb2.Forecast(eta_seconds=remaining, total_seconds=total)
        if self._task.hourly_cost > 0:
            forecast.cost_amount.CopyFrom(cost)
            forecast.currency_code = self._task.spec.ownership.owned.currency_code or "USD"
        return forecast

    def _eval_metrics(self, event: types.EvalMetrics) -> tuple[str, Any, str]:
        self.record.evaluation(event)
        metrics = event_pb2.EvalMetrics(
            step=event.step,
            loss=event.loss,
            perplexity=event.perplexity,
            exact_match=event.exact_match,
            examples=event.questions or event.rows,
            seconds=event.seconds,
            token_accuracy=event.token_accuracy,
            non_finite=event.non_finite,
        )
        shown = {"loss": event.loss, "token accuracy": event.token_accuracy, "exact match": event.exact_match}
        numbers = [f"{name} {value:.4g}" for name, value in shown.items() if value is not None]
        return "eval_metrics", metrics, " · ".join([f"evaluation at step {event.step}", *numbers])

    def _sample(self, event: types.Sample) -> tuple[str, Any, str]:
        sample = event_pb2.Sample(
            prompt=event.prompt,
            expected=event.expected,
            before=event.before or "",
            after=event.after,
            exact_match=event.after.strip() == event.expected.strip(),
        )
        return "sample", sample, f"{event.prompt[:60]!r}: {event.after[:60]!r}"

    def _checkpoint_saved(self, event: types.CheckpointSaved) -> tuple[str, Any, str]:
        self.record.ahead.checkpoint(event)
        saved = event_pb2.CheckpointSaved(
            name=f"{self._task.job}/checkpoints/{event.step}",
            step=event.step,
            size_bytes=event.bytes,
            best=event.best,
            seconds=event.seconds,
            sha256=event.sha256,
        )
        return "checkpoint_saved", saved, f"checkpoint at step {event.step} saved"

    def _checkpoint_failed(self, event: types.CheckpointFailed) -> tuple[str, Any, str]:
        failed = event_pb2.CheckpointFailed(step=event.step, reason=event.reason)
        return "checkpoint_failed", failed, f"checkpoint at step {event.step} failed: {event.message}"

    def _batch_size_changed(self, event: types.BatchSizeChanged) -> tuple[str, Any, str]:
        changed = event_pb2.BatchSizeChanged(
            step=event.step,
            previous=event.tokens_before,
            current=event.tokens_after,
            reason="OUT_OF_MEMORY",
            previous_rows=event.rows_before,
            current_rows=event.rows_after,
        )
        rows = f" and {event.rows_before} to {event.rows_after} rows" if event.rows_before else ""
        line = f"memory ran out: micro-batch cut from {event.tokens_before} to {event.tokens_after} tokens{rows}"
        return "batch_size_changed", changed, line

    def _preflight_report(self, event: types.PreflightReport) -> tuple[str, Any, str]:
        report = event_pb2.PreflightReport(
            checks=[memory_check(event)],
            rows=event.rows,
            tokens=event.tokens,
            peak_memory_bytes=event.peak_memory_bytes,
            free_memory_bytes=event.free_memory_bytes,
        )
        return "preflight_report", report, report.checks[0].help

    def _best_restored(self, event: types.BestRestored) -> tuple[str, Any, str]:
        self.record.best_restored(event)
        code = "EARLY_STOPPED" if event.early else "BEST_RESTORED"
        metric = event.metric.replace("_", " ")
        why = f"evaluations no longer got better by {metric}; training ended" if event.early else "training ended"
        line = f"{why} after step {event.step}; step {event.best_step} counts, {metric} {event.best_value:.4g}"
        return "alert", event_pb2.Alert(code=code, text=line), line

    def _alert(self, event: types.Alert) -> tuple[str, Any, str]:
        return "alert", event_pb2.Alert(code=event.reason, text=event.message), event.message

    def _log_line(self, event: LogLine) -> tuple[str, Any, str]:
        return "log_line", event_pb2.LogLine(logger=event.logger, text=event.text), event.text.partition("\n")[0][:200]

    def _artifact_ready(self, event: Published) -> tuple[str, Any, str]:
        artifact = event.artifact
        short = artifact.name.rpartition("/")[2]
        return (
            "artifact_ready",
            event_pb2.ArtifactReady(artifact=artifact),
            f"{short} is ready, {artifact.size_bytes} bytes",
        )


def _level(event: Report) -> event_pb2.EventLevel.ValueType:
    if isinstance(event, types.Alert | LogLine):
        return event_pb2.EVENT_LEVEL_DEBUG if event.level is None else _LEVELS[event.level]
    if isinstance(event, types.PreflightReport) and not event.fits:
        return event_pb2.EVENT_LEVEL_ERROR
    warn = isinstance(event, types.CheckpointFailed | types.BatchSizeChanged)
    warn = warn or (isinstance(event, types.StepMetrics) and (event.loss is None or event.grad_norm is None))
    return event_pb2.EVENT_LEVEL_WARNING if warn else event_pb2.EVENT_LEVEL_INFO


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
