# SPDX-License-Identifier: Apache-2.0
"""The states of a job, which may follow which, and what a client may do in each."""

from finetree_api.trainer.v1 import job_pb2

TERMINAL = frozenset({job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED})
"""States that are final."""

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

PAUSABLE = WAITING | {job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_RUNNING}
"""States in which a job that trains can be paused."""

LIMITS = frozenset({"DEADLINE_REACHED", "MAX_DURATION_REACHED", "MAX_COST_REACHED"})
"""Codes of a state's reason that name the limit which ends a job."""

FOLLOWERS: dict[int, frozenset[int]] = {
    job_pb2.JOB_STATE_UNSPECIFIED: frozenset({job_pb2.JOB_STATE_QUEUED}),
    job_pb2.JOB_STATE_QUEUED: frozenset(
        {job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_FAILED}
    ),
    job_pb2.JOB_STATE_PREPARING: frozenset(
        {
            *(job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_PAUSING, job_pb2.JOB_STATE_CANCELLING),
            *(job_pb2.JOB_STATE_RECOVERING, *TERMINAL),
        }
    ),
    job_pb2.JOB_STATE_RUNNING: frozenset(
        {job_pb2.JOB_STATE_PAUSING, job_pb2.JOB_STATE_CANCELLING, job_pb2.JOB_STATE_RECOVERING, *TERMINAL}
    ),
    # QUEUED after a preemption.
    job_pb2.JOB_STATE_PAUSING: frozenset(
        {job_pb2.JOB_STATE_PAUSED, job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_CANCELLING, *TERMINAL}
    ),
    job_pb2.JOB_STATE_PAUSED: frozenset({job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_CANCELLED}),
    job_pb2.JOB_STATE_RECOVERING: frozenset(
        {job_pb2.JOB_STATE_PREPARING, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_FAILED}
    ),
    # A worker that was done before the command reached it has succeeded: what it wrote is whole.
    job_pb2.JOB_STATE_CANCELLING: TERMINAL,
}
"""State to the states that may follow it. A terminal state has no entry."""


CANCEL_NOW, CANCEL_SAVING = "CANCEL_REQUESTED", "CANCEL_SAVING"
"""Reasons of the state CANCELLING on request: at once, or after a checkpoint. A service that is started meanwhile knows
by them what the worker is to be told."""


PREEMPTED = "PREEMPTED"
"""Reason of the state PAUSING of a job that gives its devices up to another one and waits again then, and of QUEUED."""


class TransitionError(Exception):
    """A state was asked for that may not follow the present one: a bug of the caller, never a user's mistake."""


def require_transition(current: int, following: int) -> None:
    """Raise TransitionError unless `following` may come after `current`."""
    if following not in FOLLOWERS.get(current, frozenset()):
        names = [job_pb2.JobState.Name(job_pb2.JobState.ValueType(state)) for state in (current, following)]
        raise TransitionError(f"{names[0]} is never followed by {names[1]}")


def actions(state: int, task: int, *, suspended: bool = False) -> list[job_pb2.JobAction.ValueType]:
    """What a client may do with a job in this state whose task is of a kind (a TaskKind)."""
    if state in TERMINAL:
        return [job_pb2.JOB_ACTION_DOWNLOAD, job_pb2.JOB_ACTION_DELETE]
    if state == job_pb2.JOB_STATE_CANCELLING:
        return []
    allowed = [job_pb2.JOB_ACTION_CANCEL]
    if task == job_pb2.TASK_KIND_SERVE and state == job_pb2.JOB_STATE_RUNNING:
        allowed.append(job_pb2.JOB_ACTION_GENERATE)
    if task == job_pb2.TASK_KIND_TRAIN and not suspended and state in PAUSABLE:
        allowed.append(job_pb2.JOB_ACTION_PAUSE)
    if state == job_pb2.JOB_STATE_PAUSED or (suspended and state in WAITING):
        allowed.append(job_pb2.JOB_ACTION_RESUME)
    if state in WAITING:
        allowed.append(job_pb2.JOB_ACTION_MOVE)
    return allowed
