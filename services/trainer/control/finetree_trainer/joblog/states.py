# SPDX-License-Identifier: Apache-2.0
"""The states of a job and which may follow which: the one place that says so."""

from finetree_api.trainer.v1 import job_pb2

State = job_pb2.JobState

TERMINAL = frozenset({job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED})
"""States that nothing leaves."""

WITH_WORKER = frozenset(
    {
        job_pb2.JOB_STATE_PREPARING,
        job_pb2.JOB_STATE_RUNNING,
        job_pb2.JOB_STATE_PAUSING,
        job_pb2.JOB_STATE_CANCELLING,
    }
)
"""States in which an attempt is open: a process works on the job, or did until a moment ago."""

WAITING = frozenset({job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RECOVERING})
"""States in which a job waits for a device."""

LIVE = WITH_WORKER | WAITING | {job_pb2.JOB_STATE_PAUSED}
"""States that are not terminal."""

_ENDS = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}

FOLLOWERS: dict[int, frozenset[int]] = {
    job_pb2.JOB_STATE_UNSPECIFIED: frozenset({job_pb2.JOB_STATE_QUEUED}),
    job_pb2.JOB_STATE_QUEUED: frozenset(
        {job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_FAILED}
    ),
    job_pb2.JOB_STATE_PREPARING: frozenset(
        {job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_CANCELLING, job_pb2.JOB_STATE_RECOVERING, *_ENDS}
    ),
    job_pb2.JOB_STATE_RUNNING: frozenset(
        {job_pb2.JOB_STATE_PAUSING, job_pb2.JOB_STATE_CANCELLING, job_pb2.JOB_STATE_RECOVERING, *_ENDS}
    ),
    job_pb2.JOB_STATE_PAUSING: frozenset(
        {job_pb2.JOB_STATE_PAUSED, job_pb2.JOB_STATE_CANCELLING, job_pb2.JOB_STATE_RECOVERING, *_ENDS}
    ),
    job_pb2.JOB_STATE_PAUSED: frozenset({job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_CANCELLED}),
    job_pb2.JOB_STATE_RECOVERING: frozenset(
        {job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_FAILED}
    ),
    # A worker that was done before the command reached it has succeeded: what it wrote is whole.
    job_pb2.JOB_STATE_CANCELLING: frozenset(_ENDS),
}
"""State to the states that may follow it. A terminal state has no entry."""


class TransitionError(Exception):
    """A state was asked for that may not follow the present one: a fault of the caller, never of a user."""


def check(current: int, following: int) -> None:
    """Raise TransitionError unless `following` may come after `current`."""
    if following not in FOLLOWERS.get(current, frozenset()):
        names = State.Name(State.ValueType(current)), State.Name(State.ValueType(following))
        raise TransitionError(f"{names[0]} is never followed by {names[1]}")


def actions(state: int) -> list[job_pb2.JobAction.ValueType]:
    """What may be done with a job in this state."""
    if state in TERMINAL:
        return [job_pb2.JOB_ACTION_DOWNLOAD] if state != job_pb2.JOB_STATE_CANCELLED else []
    return [] if state == job_pb2.JOB_STATE_CANCELLING else [job_pb2.JOB_ACTION_CANCEL]
