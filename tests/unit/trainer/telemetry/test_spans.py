# SPDX-License-Identifier: Apache-2.0
"""Spans of a job, made of its events: which there are, how they are nested, and that a restart makes the same."""

import json

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_trainer.telemetry.spans import JobSpans, Reached

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECOND = 1_000_000
START = 1_800_000_000 * SECOND


def record(flags="01"):
    job = job_pb2.Job(uid="j1", name="projects/p/jobs/j1", trace_context=f"00-{TRACE}-{SPAN}-{flags}")
    job.train.spec.lora.SetInParent()
    return job


class Log:
    """Events with numbers, and times in seconds since the job's creation."""

    def __init__(self) -> None:
        self.events, self.attempt, self.state = [], 0, 0

    def add(self, seconds, **payload):  # noqa: ANN003 - a payload of JobEvent
        event = event_pb2.JobEvent(seq=len(self.events) + 1, attempt=self.attempt, **payload)
        event.event_time.FromMicroseconds(START + int(seconds * SECOND))
        self.events.append(event)

    def move(self, seconds, name, code=""):
        state = job_pb2.JobState.Value(f"JOB_STATE_{name}")
        changed = event_pb2.StateChanged(previous=self.state, current=state, reason=job_pb2.StateReason(code=code))
        self.state = state
        self.attempt += name == "PREPARING"
        self.add(seconds, state_changed=changed)

    def phase(self, seconds, name):
        phase = job_pb2.JobPhase.Value(f"JOB_PHASE_{name}")
        self.add(seconds, phase_progress=event_pb2.PhaseProgress(phase=phase))

    def step(self, seconds, number):
        self.add(seconds, step_metrics=event_pb2.StepMetrics(step=number, step_seconds=1.0, loss=2.0))


def whole_run():
    """Two attempts: the first is lost after five steps, the second ends well."""
    log = Log()
    log.move(0, "QUEUED")
    log.move(5, "PREPARING")
    log.phase(6, "LOAD_MODEL")
    log.phase(8, "LOAD_MODEL")
    for number in range(1, 6):
        log.step(10 + number, number)
    log.move(20, "RECOVERING", "WORKER_LOST")
    log.move(22, "PREPARING")
    log.phase(23, "LOAD_MODEL")
    log.add(30, eval_metrics=event_pb2.EvalMetrics(step=0, seconds=4.0, loss=3.0))
    for number in range(1, 31):
        log.step(30 + number, number)
    log.add(62, checkpoint_saved=event_pb2.CheckpointSaved(step=30, seconds=1.5, size_bytes=7))
    log.move(63, "SUCCEEDED")
    log.add(63, terminal=event_pb2.Terminal(state=job_pb2.JOB_STATE_SUCCEEDED))
    return log.events


def spans_of(events, spans=None):
    spans = spans or JobSpans(record())
    return [span for event in events for span in spans.add(event)]


def test_every_span_has_its_place_and_its_time():
    made = spans_of(whole_run())
    names = {span.span_id: span.name for span in made}
    shown = [
        (span.name, names.get(span.parent_id, span.parent_id), (span.start - START) / 1e6, (span.end - START) / 1e6)
        for span in made
    ]
    assert shown == [
        ("waiting", "job train", 0, 5),
        ("load_model", "attempt", 6, 11),
        ("steps", "train", 10, 15),
        ("train", "attempt", 11, 20),
        ("attempt", "job train", 5, 20),
        ("waiting", "job train", 20, 22),
        ("evaluation", "load_model", 26, 30),
        ("load_model", "attempt", 23, 31),
        ("steps", "train", 30, 40),
        ("steps", "train", 40, 50),
        ("steps", "train", 50, 60),
        ("checkpoint", "train", 60.5, 62),
        ("train", "attempt", 31, 63),
        ("attempt", "job train", 22, 63),
        ("job train", SPAN, 0, 63),
    ]
    assert {span.trace_id for span in made} == {TRACE}
    assert len({span.span_id for span in made}) == len(made)
    assert [span.error for span in made if span.name == "attempt"] == ["WORKER_LOST", ""]


def test_a_restart_anywhere_makes_the_same_spans():
    events = whole_run()
    whole = spans_of(events)
    for cut in range(len(events) + 1):
        first = JobSpans(record())
        made = spans_of(events[:cut], first)
        kept = json.loads(json.dumps(first.reached.to_json()))
        assert made + spans_of(events[cut:], JobSpans(record(), Reached.of_json(kept))) == whole


def test_a_long_attempt_has_a_bounded_number_of_spans():
    log = Log()
    log.move(0, "PREPARING")
    week = 7 * 24 * 3600
    for number in range(1, 5_001):
        log.step(number * week / 5_000, number)
    steps = [span for span in spans_of(log.events) if span.name == "steps"]
    assert 100 < len(steps) < 1200
    assert max(span.end - span.start for span in steps) <= 0.012 * week * SECOND


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True)])
def test_a_trace_that_nobody_records_stays_so(flags, sampled):
    assert JobSpans(record(flags)).sampled is sampled


def test_a_job_without_a_caller_begins_a_trace_of_its_own():
    job = record()
    job.trace_context = ""
    made = [span for spans in (JobSpans(job), JobSpans(job)) for span in spans_of(whole_run(), spans)]
    assert len({span.trace_id for span in made}) == 1
    assert {span.parent_id for span in made if span.name == "job train"} == {""}


def test_a_failed_job_says_why_and_nothing_that_a_user_wrote():
    log = Log()
    log.move(0, "QUEUED")
    log.move(1, "PREPARING")
    log.move(2, "FAILED", "OUT_OF_MEMORY")
    log.add(2, message="secret", terminal=event_pb2.Terminal(state=job_pb2.JOB_STATE_FAILED))
    made = spans_of(log.events)
    assert {span.name: span.error for span in made} == {
        "waiting": "",
        "attempt": "OUT_OF_MEMORY",
        "job train": "OUT_OF_MEMORY",
    }
    assert "secret" not in str(made)
