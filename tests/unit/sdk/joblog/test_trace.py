# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - arguments are fields of protobuf messages
"""A trace against the rules of the trace-event format, and against the log that it is made of."""

import itertools
import json

import pytest
from finetree.joblog.trace import COUNTERS, PID, TRACKS, trace_of
from finetree_api.trainer.v1 import event_pb2, job_pb2

START = 1_790_000_000_000_000
"""Microseconds since 1970 of the first event."""
STATES = {name: getattr(job_pb2, f"JOB_STATE_{name}") for name in ("QUEUED", "PREPARING", "RUNNING", "RECOVERING")}


class Log:
    """Events of a job, made one after another: the worker's clock is ahead by a minute and a half."""

    def __init__(self) -> None:
        self.events: list[event_pb2.JobEvent] = []
        self.attempt = 0

    def add(self, at: float, *, stored_after: float = 0.01, worker: bool = True, message: str = "", **payload):
        event = event_pb2.JobEvent(seq=len(self.events) + 1, attempt=self.attempt, message=message, **payload)
        event.event_time.FromMicroseconds(START + round((at + stored_after) * 1e6))
        if worker:
            event.worker_time.FromMicroseconds(START + round((at + 90) * 1e6))
        self.events.append(event)

    def state(self, at: float, name: str) -> None:
        changed = event_pb2.StateChanged(current=STATES[name], reason=job_pb2.StateReason(text=f"now {name}"))
        self.add(at, stored_after=0.0, worker=False, state_changed=changed)

    def step(self, at: float, number: int, seconds: float = 1.0) -> None:
        metrics = event_pb2.StepMetrics(
            step=number, loss=3.0 / number, step_seconds=seconds, tokens_per_second=100, memory_bytes=2**30
        )
        self.add(at, stored_after=0.5 if number % 2 else 0.01, step_metrics=metrics)


def run() -> list[event_pb2.JobEvent]:
    """Queued for 5 s; steps 1 to 4 with an evaluation, a checkpoint and a gap; killed; step 4 again, slow."""
    log = Log()
    log.state(0, "QUEUED")
    log.attempt = 1
    log.state(5, "PREPARING")
    log.add(5.5, phase_progress=event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_LOAD_MODEL, fraction=0))
    log.add(8, phase_progress=event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_LOAD_MODEL, fraction=1))
    log.state(9, "RUNNING")
    log.add(9, attempt_started=event_pb2.AttemptStarted(reason=event_pb2.ATTEMPT_REASON_FIRST))
    log.step(10, 1)
    log.step(11, 2)
    log.add(13, eval_metrics=event_pb2.EvalMetrics(step=2, loss=1.5, seconds=2.0, rows=10))
    log.add(13.5, checkpoint_saved=event_pb2.CheckpointSaved(step=2, seconds=0.5, size_bytes=10, best=True))
    log.step(14.5, 3)
    log.add(20, alert=event_pb2.Alert(code="SLOW_STEPS"), message="steps take longer")
    log.step(24, 4)
    log.state(30, "RECOVERING")
    log.attempt = 2
    log.state(33, "RUNNING")
    log.add(33, attempt_started=event_pb2.AttemptStarted(reason=event_pb2.ATTEMPT_REASON_RECOVERED, restored_step=3))
    log.step(40, 4, seconds=6.0)
    return log.events


@pytest.fixture
def log() -> list[event_pb2.JobEvent]:
    return run()


def spans(document, track):
    return [entry for entry in document["traceEvents"] if entry["ph"] == "X" and entry["cat"] == track]


def check_format(document) -> None:
    """Rules of the format: what each kind of entry has, and that spans of one thread are nested or apart."""
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    entries = document["traceEvents"]
    threads = {entry["tid"] for entry in entries if entry["ph"] == "M" and entry["name"] == "thread_name"}
    for entry in entries:
        assert entry["ph"] in ("X", "i", "C", "M")
        assert entry["pid"] == PID
        assert isinstance(entry["tid"], int)
        assert entry["name"]
        if entry["ph"] == "M":
            continue
        assert isinstance(entry["ts"], int)
        assert entry["ts"] >= 0
        assert entry["cat"]
        if entry["ph"] == "X":
            assert isinstance(entry["dur"], int)
            assert entry["dur"] >= 0
            assert entry["tid"] in threads
        if entry["ph"] == "i":
            assert entry["s"] in ("g", "p", "t")
        if entry["ph"] == "C":
            assert all(isinstance(value, int | float) for value in entry["args"].values())
    timed = [entry for entry in entries if entry["ph"] != "M"]
    assert [entry["ts"] for entry in timed] == sorted(entry["ts"] for entry in timed)
    for thread in threads:
        own = [entry for entry in timed if entry["ph"] == "X" and entry["tid"] == thread]
        for before, after in itertools.pairwise(own):
            assert before["ts"] + before["dur"] <= after["ts"]


def test_a_trace_keeps_the_rules_of_its_format(log):
    for length in range(len(log) + 1):  # as it is after each event of a job that runs
        check_format(trace_of(job_pb2.Job(uid="u", name="projects/p/jobs/u"), log[:length]))


def test_steps_that_seem_to_have_been_taken_at_once_keep_their_order():
    log = Log()
    for number, at in enumerate((2.0, 1.5, 1.0, 4.0), 1):  # a worker's clock that was set back
        log.step(at, number, seconds=0.5)
    document = trace_of(job_pb2.Job(uid="u", name="projects/p/jobs/u"), log.events)
    check_format(document)
    assert [span["args"]["seq"] for span in spans(document, "steps")] == [1, 2, 3, 4]


def test_everything_of_the_log_is_in_the_trace(log):
    document = trace_of(job_pb2.Job(uid="u", name="projects/p/jobs/u"), log)
    assert [(span["name"], span["ts"], span["dur"]) for span in spans(document, "state")] == [
        ("queued", 0, 5_000_000),
        ("preparing", 5_000_000, 4_000_000),
        ("running", 9_000_000, 21_000_000),
        ("recovering", 30_000_000, 3_000_000),
        ("running", 33_000_000, 7_010_000),
    ]
    steps = spans(document, "steps")
    assert [span["name"] for span in steps] == ["step 1", "step 2", "step 3", "step 4", "step 4 (slow)"]
    # The times of the worker, less what its clock is ahead: not those at which its events were stored.
    assert [span["ts"] + span["dur"] for span in steps] == [10_010_000, 11_010_000, 14_510_000, 24_010_000, 40_010_000]
    assert {span["dur"] for span in steps} == {1_000_000, 6_000_000}
    by_seq = {event.seq: event for event in log}
    for span in steps:
        assert span["args"]["loss"] == by_seq[span["args"]["seq"]].step_metrics.loss
    (evaluation,), (checkpoint,) = spans(document, "evaluations"), spans(document, "checkpoints")
    assert (evaluation["ts"], evaluation["dur"]) == (11_010_000, 2_000_000)
    assert (checkpoint["dur"], checkpoint["args"]["best"]) == (500_000, True)
    assert [span["name"] for span in spans(document, "phases")] == ["load model", "train", "train"]
    assert [span["args"].get("restored_step") for span in spans(document, "attempts")] == [0, 3]
    (gap,) = spans(document, "gaps")
    assert (gap["ts"], gap["dur"]) == (14_510_000, 8_500_000)
    alerts = [entry for entry in document["traceEvents"] if entry["ph"] == "i"]
    assert [(entry["name"], entry["args"]["message"]) for entry in alerts] == [("SLOW_STEPS", "steps take longer")]
    counters = [entry for entry in document["traceEvents"] if entry["ph"] == "C"]
    assert {entry["name"] for entry in counters} == set(COUNTERS)
    assert [entry["args"]["loss"] for entry in counters if entry["name"] == "loss"] == [
        event.step_metrics.loss for event in log if event.HasField("step_metrics")
    ]
    assert document["otherData"]["last_seq"] == len(log)
    assert {span["cat"] for span in document["traceEvents"] if span["ph"] == "X"} <= set(TRACKS)
