# SPDX-License-Identifier: Apache-2.0
"""Pauses trainings and resumes them: a running one through its worker, a waiting one by taking it out of the queue."""

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import FailedPrecondition
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.scheduling.order import place
from finetree_trainer.store import request_ids
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.store.request_ids import RequestKey
from finetree_trainer.workers.supervisor import Supervisor


class Pausing:
    """Answers PauseJob and ResumeJob."""

    def __init__(self, log: EventLog, supervisor: Supervisor) -> None:
        self._log, self._supervisor = log, supervisor

    def recover(self, rows: list[JobRow]) -> None:
        """Repeat the command of an earlier run of the service to the workers of jobs that are about to pause."""
        for row in rows:
            if row.state == job_pb2.JOB_STATE_PAUSING:
                self._supervisor.pause(row.uid, row.attempt)

    async def pause(self, uid: str, *, keep_place: bool, key: RequestKey) -> None:
        """Ask a training to save a checkpoint and give its device back; one that waits is suspended at once.

        Raises NotFound JOB_NOT_FOUND, FailedPrecondition JOB_NOT_PAUSABLE, AlreadyExists REQUEST_ID_REUSED.
        """

        def decide(transaction: Transaction, connection: Connection) -> None:
            if request_ids.claim(connection, key, uid, now=transaction.now) is not None:
                return
            row = transaction.row
            if job_pb2.JOB_ACTION_PAUSE not in states.actions(row.state, row.task, suspended=row.suspended):
                raise _not_pausable(row)
            row.place = place.place_of(row) if keep_place else place.UNDECIDED
            if row.state in states.WAITING:
                transaction.suspend("Paused on request while it waited.")
            else:
                text = "Pauses on request: a checkpoint is saved, then its device is free."
                transaction.move(job_pb2.JOB_STATE_PAUSING, "PAUSE_REQUESTED", text)

        row = (await self._log.change(uid, decide)).row
        if row.state == job_pb2.JOB_STATE_PAUSING:
            self._supervisor.pause(uid, row.attempt)

    async def resume(self, uid: str, key: RequestKey) -> None:
        """Have a paused or suspended job wait for a device, at the place that it has kept or behind the others.

        Raises NotFound JOB_NOT_FOUND, FailedPrecondition JOB_NOT_PAUSED, AlreadyExists REQUEST_ID_REUSED.
        """

        def decide(transaction: Transaction, connection: Connection) -> None:
            if request_ids.claim(connection, key, uid, now=transaction.now) is not None:
                return
            row = transaction.row
            if job_pb2.JOB_ACTION_RESUME not in states.actions(row.state, row.task, suspended=row.suspended):
                raise _not_paused(row)
            if row.place == place.UNDECIDED:
                row.place = place.last()
            transaction.resume()

        await self._log.change(uid, decide)


def _not_pausable(row: JobRow) -> FailedPrecondition:
    task = job_pb2.TaskKind.Name(job_pb2.TaskKind.ValueType(row.task)).removeprefix("TASK_KIND_")
    state = state_name(row.state)
    if row.task != job_pb2.TASK_KIND_TRAIN:
        text = f"A job of the kind {task} has no checkpoint to go on from, so it cannot be paused; cancel it instead."
    elif row.suspended:
        text = "The job is suspended already; resume it to have it queued."
    else:
        text = f"The job is {state}, so it cannot be paused."
    return FailedPrecondition("JOB_NOT_PAUSABLE", text, metadata={"task": task, "state": state})


def _not_paused(row: JobRow) -> FailedPrecondition:
    state = state_name(row.state)
    text = f"The job is {state}, neither paused nor suspended, so there is nothing to resume."
    if row.state == job_pb2.JOB_STATE_PAUSING:
        text = "The job still saves its checkpoint; resume it when it is PAUSED."
    return FailedPrecondition("JOB_NOT_PAUSED", text, metadata={"state": state})


def state_name(state: int) -> str:
    """Return a state without its prefix, as texts for people have it."""
    return job_pb2.JobState.Name(job_pb2.JobState.ValueType(state)).removeprefix("JOB_STATE_")
