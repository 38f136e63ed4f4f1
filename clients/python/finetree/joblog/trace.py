# SPDX-License-Identifier: Apache-2.0
"""A job as a trace that Perfetto opens: where its time went, made from its event log.

The format is Chrome's trace-event JSON ("Trace Event Format", version of 2016; ui.perfetto.dev reads it): spans (ph
"X"), instants ("i"), counters ("C") and names ("M"), times in microseconds from the job's creation. Each track has one
kind of span, and spans of a track never overlap.

    document = client.job(name).trace()
    Path("job.json").write_text(json.dumps(document))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree.joblog.metrics import values_of

PID = 1
"""The one process of a trace: the job."""
TRACKS = ("state", "attempts", "phases", "steps", "evaluations", "checkpoints", "gaps")
"""Names of the tracks; the number of a track is its place, from 1."""
COUNTERS = ("loss", "eval_loss", "tokens_per_second", "memory_bytes")
GAP_SECONDS = 1.0
"""Shortest time between two steps in which nothing is known to have run that counts as a gap."""
GAP_STEPS = 3.0
"""Median steps that a gap lasts at least; a step that takes as many is a slow one."""
INSTANTS = ("alert", "artifact_ready", "batch_size_changed", "checkpoint_failed", "terminal")


def trace_of(job: job_pb2.Job, events: Sequence[event_pb2.JobEvent]) -> dict[str, Any]:
    """Make the trace of a job from its events, oldest first; of a job that still runs, of what there is so far.

    Returns:
        The JSON document: `traceEvents`, `displayTimeUnit`, and `otherData` with the job's name and start.
    """
    made = _Trace(events)
    names = [_name("process_name", 0, f"job {job.display_name or job.uid}")]
    names += [_name("thread_name", number, track) for number, track in enumerate(TRACKS, 1)]
    names += [
        {"ph": "M", "name": "thread_sort_index", "pid": PID, "tid": number, "args": {"sort_index": number}}
        for number in range(1, len(TRACKS) + 1)
    ]
    start = events[0].event_time.ToJsonString() if events else job.create_time.ToJsonString()
    return {
        "traceEvents": [*names, *made.entries()],
        "displayTimeUnit": "ms",
        "otherData": {"job": job.name, "start_time": start, "last_seq": events[-1].seq if events else 0},
    }


def _name(kind: str, tid: int, text: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": PID, "tid": tid, "args": {"name": text}}


class _Clock:
    """Times of events in microseconds from the first one, on one clock.

    A worker's clock tells when something was, the service's when it was stored. They are set against each other for
    each attempt by the event that was stored soonest after it was made.
    """

    def __init__(self, events: Sequence[event_pb2.JobEvent]) -> None:
        self._start = events[0].event_time.ToMicroseconds() if events else 0
        self._shift: dict[int, int] = {}
        for event in events:
            if event.HasField("worker_time"):
                delay = event.event_time.ToMicroseconds() - event.worker_time.ToMicroseconds()
                self._shift[event.attempt] = min(delay, self._shift.get(event.attempt, delay))

    def of(self, event: event_pb2.JobEvent) -> int:
        """When an event happened; never before the first one."""
        if event.HasField("worker_time"):
            time = event.worker_time.ToMicroseconds() + self._shift[event.attempt]
        else:
            time = event.event_time.ToMicroseconds()
        return max(0, time - self._start)


class _Trace:
    """Spans by track, instants and counters of a log."""

    def __init__(self, events: Sequence[event_pb2.JobEvent]) -> None:
        self._clock = _Clock(events)
        self._spans: list[dict[str, Any]] = []
        self._others: list[dict[str, Any]] = []
        self._ends = dict.fromkeys(TRACKS, 0)
        self._end = max((self._clock.of(event) for event in events), default=0)
        self._states(events)
        self._attempts(events)
        self._phases(events)
        self._work(events)
        self._gaps()
        for event in events:
            self._instant(event)
            self._count(event)

    def entries(self) -> list[dict[str, Any]]:
        """Every entry by its time; of those that begin together, in the order of the log."""
        return sorted([*self._spans, *self._others], key=lambda entry: int(entry["ts"]))

    def _span(self, track: str, name: str, start: int, end: int, **values: Any) -> None:
        # What was measured may begin before the span in front of it was stored to have ended.
        start = max(start, self._ends[track])
        end = max(start, end)
        self._ends[track] = end
        tid = TRACKS.index(track) + 1
        found = {name: value for name, value in values.items() if value is not None}
        self._spans.append(
            {
                "ph": "X",
                "name": name,
                "cat": track,
                "ts": start,
                "dur": end - start,
                "pid": PID,
                "tid": tid,
                "args": found,
            }
        )

    def _states(self, events: Iterable[event_pb2.JobEvent]) -> None:
        changes = [event for event in events if event.HasField("state_changed")]
        for place, event in enumerate(changes):
            last = place + 1 == len(changes)
            changed = event.state_changed
            if last and changed.current in (
                job_pb2.JOB_STATE_SUCCEEDED,
                job_pb2.JOB_STATE_FAILED,
                job_pb2.JOB_STATE_CANCELLED,
            ):
                break
            end = self._end if last else self._clock.of(changes[place + 1])
            self._span(
                "state",
                _word(job_pb2.JobState, changed.current),
                self._clock.of(event),
                end,
                reason=changed.reason.text,
                seq=event.seq,
            )

    def _attempts(self, events: Sequence[event_pb2.JobEvent]) -> None:
        for number in sorted({event.attempt for event in events if event.attempt}):
            own = [event for event in events if event.attempt == number]
            started = next((event.attempt_started for event in own if event.HasField("attempt_started")), None)
            self._span(
                "attempts",
                f"attempt {number}",
                min(map(self._clock.of, own)),
                max(map(self._clock.of, own)),
                restored_step=started.restored_step if started is not None else None,
                reason=_word(event_pb2.AttemptReason, started.reason) if started is not None else None,
                seq=own[0].seq,
            )

    def _phases(self, events: Iterable[event_pb2.JobEvent]) -> None:
        open_: tuple[int, int, int] | None = None  # phase, start, seq
        attempt, reached = 0, 0

        def close(end: int) -> None:
            if open_ is not None:
                self._span("phases", _word(job_pb2.JobPhase, open_[0]), open_[1], end, seq=open_[2])

        for event in events:
            if event.attempt != attempt:
                close(reached)
                open_, attempt = None, event.attempt
            time = self._clock.of(event)
            phase, begun = 0, time
            if event.HasField("phase_progress"):
                phase = event.phase_progress.phase
            elif event.HasField("step_metrics"):
                phase, begun = job_pb2.JOB_PHASE_TRAIN, time - _micros(event.step_metrics.step_seconds)
            reached = max(reached, time) if event.attempt else reached
            if not phase:
                continue
            if open_ is not None and open_[0] != phase:
                close(begun)
                open_ = None
            open_ = open_ or (phase, begun, event.seq)
            if event.HasField("phase_progress") and event.phase_progress.fraction >= 1:
                close(time)
                open_ = None
        close(reached)

    def _work(self, events: Iterable[event_pb2.JobEvent]) -> None:
        seconds = [event.step_metrics.step_seconds for event in events if event.HasField("step_metrics")]
        self._usual = median(seconds) if seconds else 0.0
        for event in events:
            end = self._clock.of(event)
            if event.HasField("step_metrics"):
                step = event.step_metrics
                slow = step.step_seconds >= max(GAP_SECONDS, GAP_STEPS * self._usual)
                self._span(
                    "steps",
                    f"step {step.step}{' (slow)' if slow else ''}",
                    end - _micros(step.step_seconds),
                    end,
                    loss=step.loss if step.HasField("loss") else None,
                    learning_rate=step.learning_rate,
                    tokens_per_second=step.tokens_per_second,
                    attempt=event.attempt,
                    seq=event.seq,
                )
            elif event.HasField("eval_metrics"):
                found = event.eval_metrics
                self._span(
                    "evaluations",
                    f"evaluation at step {found.step}",
                    end - _micros(found.seconds),
                    end,
                    loss=found.loss if found.HasField("loss") else None,
                    rows=found.rows,
                    seq=event.seq,
                )
            elif event.HasField("checkpoint_saved"):
                saved = event.checkpoint_saved
                self._span(
                    "checkpoints",
                    f"checkpoint at step {saved.step}",
                    end - _micros(saved.seconds),
                    end,
                    size_bytes=saved.size_bytes,
                    best=saved.best,
                    seq=event.seq,
                )

    def _gaps(self) -> None:
        """Time between the first and the last step of an attempt in which no step, evaluation or checkpoint ran."""
        shortest = _micros(max(GAP_SECONDS, GAP_STEPS * self._usual))
        steps = [span for span in self._spans if span["cat"] == "steps"]
        attempts = {span["args"]["attempt"] for span in steps}
        for attempt in sorted(attempts):
            own = [span for span in steps if span["args"]["attempt"] == attempt]
            first, last = own[0]["ts"], own[-1]["ts"] + own[-1]["dur"]
            busy = sorted(
                (span["ts"], span["ts"] + span["dur"])
                for span in self._spans
                if span["cat"] in ("steps", "evaluations", "checkpoints")
                and first <= span["ts"] + span["dur"]
                and span["ts"] <= last
            )
            reached = first
            for start, end in busy:
                if start - reached >= shortest:
                    self._span("gaps", "nothing reported", reached, start, attempt=attempt)
                reached = max(reached, end)

    def _instant(self, event: event_pb2.JobEvent) -> None:
        kind = event.WhichOneof("payload")
        if kind not in INSTANTS:
            return
        name = event.alert.code if kind == "alert" else kind
        self._others.append(
            {
                "ph": "i",
                "s": "p",
                "name": name,
                "cat": kind,
                "ts": self._clock.of(event),
                "pid": PID,
                "tid": 1,
                "args": {"message": event.message, "seq": event.seq},
            }
        )

    def _count(self, event: event_pb2.JobEvent) -> None:
        kind = event.WhichOneof("payload")
        if kind not in ("step_metrics", "eval_metrics"):
            return
        metrics = event.step_metrics if kind == "step_metrics" else event.eval_metrics
        for name, value in values_of(metrics, COUNTERS):
            self._others.append(
                {
                    "ph": "C",
                    "name": name,
                    "cat": kind,
                    "ts": self._clock.of(event),
                    "pid": PID,
                    "tid": 0,
                    "args": {name: value},
                }
            )


def _word(enum: Any, number: int) -> str:
    """Name of a value in words: JOB_PHASE_LOAD_MODEL is "load model"; of a newer service's value its number."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    return str(value.name).removeprefix(prefix).replace("_", " ").lower()


def _micros(seconds: float) -> int:
    return max(0, round(seconds * 1e6))
