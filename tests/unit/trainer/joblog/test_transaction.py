# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_trainer.joblog import states
from finetree_trainer.joblog.transaction import FinishedError, Transaction


def test_a_wrong_move_is_refused_and_nothing_is_logged(new_row):
    transaction = Transaction(new_row(state=job_pb2.JOB_STATE_QUEUED), 1)
    with pytest.raises(states.TransitionError, match=r"QUEUED is never followed by .*RUNNING"):
        transaction.move(job_pb2.JOB_STATE_RUNNING, "X", "x")
    assert not transaction.events


def test_a_job_that_has_ended_takes_no_event(new_row):
    transaction = Transaction(new_row(state=job_pb2.JOB_STATE_RUNNING, last_seq=4, attempt=2), 7)
    transaction.finish(job_pb2.JOB_STATE_SUCCEEDED, "DONE", "Done.")
    assert [event.seq for event in transaction.events] == [5, 6]
    assert [event.kind for event in transaction.events] == [
        event_pb2.EVENT_KIND_STATE_CHANGED,
        event_pb2.EVENT_KIND_TERMINAL,
    ]
    assert {event.state for event in transaction.events} == {job_pb2.JOB_STATE_SUCCEEDED}
    assert transaction.row.end_time == 7
    for again in (transaction, Transaction(transaction.row, 8)):
        with pytest.raises(FinishedError):
            again.add(event_pb2.JobEvent(log_line=event_pb2.LogLine(text="late")))
        with pytest.raises((FinishedError, states.TransitionError)):
            again.finish(job_pb2.JOB_STATE_FAILED, "X", "x")


def test_an_event_is_completed_with_what_the_service_knows(new_row):
    transaction = Transaction(new_row(state=job_pb2.JOB_STATE_RUNNING, attempt=3, attempt_started=1_000_000), 2_500_000)
    forged = event_pb2.JobEvent(seq=99, attempt=9, job="x", checkpoint_failed=event_pb2.CheckpointFailed(step=1))
    transaction.add(forged)
    event = transaction.events[0]
    assert (event.seq, event.attempt, event.job) == (1, 3, "projects/p/jobs/j1")
    assert event.elapsed.ToMilliseconds() == 1500
    assert event.event_time.ToMicroseconds() == 2_500_000
    assert event.kind == event_pb2.EVENT_KIND_CHECKPOINT_FAILED
    assert event.level == event_pb2.EVENT_LEVEL_WARNING


def test_every_payload_has_its_kind():
    payloads = event_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["payload"].fields
    kinds = {f"EVENT_KIND_{field.name.upper()}" for field in payloads}
    assert kinds == set(event_pb2.EventKind.keys()) - {"EVENT_KIND_UNSPECIFIED"}


def test_nothing_changed_means_nothing_to_store(new_row):
    row = new_row(update_time=5)
    assert not Transaction(row, 9).flush()
    assert row.update_time == 5
