# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions say what they return by their names
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_trainer.joblog import states
from finetree_trainer.joblog.transaction import Draft, FinishedError

KNOWN = set(job_pb2.JobState.values()) - {job_pb2.JOB_STATE_UNSPECIFIED}


def test_every_state_is_terminal_or_can_be_left_and_is_reached():
    assert set(states.FOLLOWERS) | states.TERMINAL == KNOWN | {job_pb2.JOB_STATE_UNSPECIFIED}
    assert not set(states.FOLLOWERS) & states.TERMINAL
    assert set().union(*states.FOLLOWERS.values()) == KNOWN
    assert KNOWN == states.LIVE | states.TERMINAL


def test_every_live_state_can_end_cancelled():
    def reaches(state, seen=()):
        following = states.FOLLOWERS.get(state, frozenset())
        return job_pb2.JOB_STATE_CANCELLED in following or any(
            reaches(other, (*seen, state)) for other in following if other not in seen
        )

    assert all(reaches(state) for state in states.LIVE)


def test_a_wrong_move_is_refused_and_nothing_is_logged(new_row):
    draft = Draft(new_row(state=job_pb2.JOB_STATE_QUEUED), 1)
    with pytest.raises(states.TransitionError, match=r"QUEUED is never followed by .*RUNNING"):
        draft.move(job_pb2.JOB_STATE_RUNNING, "X", "x")
    assert not draft.events


def test_a_job_that_has_ended_takes_no_event(new_row):
    draft = Draft(new_row(state=job_pb2.JOB_STATE_RUNNING, last_seq=4, attempt=2), 7)
    draft.finish(job_pb2.JOB_STATE_SUCCEEDED, "DONE", "Done.")
    assert [event.seq for event in draft.events] == [5, 6]
    assert [event.kind for event in draft.events] == [
        event_pb2.EVENT_KIND_STATE_CHANGED,
        event_pb2.EVENT_KIND_TERMINAL,
    ]
    assert {event.state for event in draft.events} == {job_pb2.JOB_STATE_SUCCEEDED}
    assert draft.row.end_time == 7
    for again in (draft, Draft(draft.row, 8)):
        with pytest.raises(FinishedError):
            again.add(event_pb2.JobEvent(log_line=event_pb2.LogLine(text="late")))
        with pytest.raises((FinishedError, states.TransitionError)):
            again.finish(job_pb2.JOB_STATE_FAILED, "X", "x")


def test_an_event_is_completed_with_what_the_service_knows(new_row):
    draft = Draft(new_row(state=job_pb2.JOB_STATE_RUNNING, attempt=3, attempt_started=1_000_000), 2_500_000)
    forged = event_pb2.JobEvent(seq=99, attempt=9, job="x", checkpoint_failed=event_pb2.CheckpointFailed(step=1))
    draft.add(forged)
    event = draft.events[0]
    assert (event.seq, event.attempt, event.job) == (1, 3, "projects/p/jobs/j1")
    assert event.elapsed.ToMilliseconds() == 1500
    assert event.event_time.ToMicroseconds() == 2_500_000
    assert event.type == "finetree.job.checkpoint_failed"
    assert event.level == event_pb2.EVENT_LEVEL_WARNING


def test_every_payload_has_its_kind():
    payloads = event_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["payload"].fields
    kinds = {f"EVENT_KIND_{field.name.upper()}" for field in payloads}
    assert kinds == set(event_pb2.EventKind.keys()) - {"EVENT_KIND_UNSPECIFIED"}


def test_nothing_changed_means_nothing_to_store(new_row):
    row = new_row(update_time=5)
    assert not Draft(row, 9).seal()
    assert row.update_time == 5
