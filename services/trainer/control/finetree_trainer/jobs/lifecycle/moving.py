# SPDX-License-Identifier: Apache-2.0
"""Gives waiting jobs another place in the queue."""

import asyncio

from finetree_runtime.errors import FailedPrecondition, invalid_field
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.jobs.lifecycle.pausing import state_name
from finetree_trainer.scheduling.order import place
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.store import request_ids
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.store.request_ids import RequestKey


class Moving:
    """Answers MoveJob. Moves are made one after another, so that no two jobs are put into the same gap."""

    def __init__(self, log: EventLog, queue: JobQueue) -> None:
        self._log, self._queue = log, queue
        self._lock = asyncio.Lock()

    async def move(self, uid: str, before: str, key: RequestKey) -> None:
        """Put a waiting job directly before another one, a uid, or before all that wait for its devices for "".

        Raises NotFound JOB_NOT_FOUND, FailedPrecondition JOB_NOT_WAITING, DIFFERENT_QUEUES, InvalidArgument
        INVALID_REQUEST, AlreadyExists REQUEST_ID_REUSED.
        """
        if before == uid:
            raise invalid_field("before", "names the job that is moved; name another one")
        async with self._lock:
            target = await self._log.row(before) if before else None
            others = self._queue.competitors(uid)

            def decide(transaction: Transaction, connection: Connection) -> None:
                if request_ids.claim(connection, key, uid, now=transaction.now) is not None:
                    return
                _require_waiting(transaction.row)
                if target is not None:
                    _require_waiting(target)
                    if before not in {row.uid for row in others}:
                        raise _different_queues()
                _move(transaction, others, before)

            await self._log.change(uid, decide)


def _move(transaction: Transaction, others: list[JobRow], before: str) -> None:
    """Place the job before one of `others`, which are in the order of the queue; for "" before all of them."""
    row = transaction.row
    index = next((i for i, other in enumerate(others) if other.uid == before), 0)
    if not others or (not before and others[0].priority < row.priority):
        return  # it is the first already
    other, ahead = others[index], others[index - 1] if index else None
    above = place.place_of(ahead) if ahead is not None and ahead.priority == other.priority else ""
    if above == place.place_of(other):
        above = ""  # two that wait for a new place have the same one meanwhile: it goes before both
    row.priority, row.place = other.priority, place.between(above, place.place_of(other))
    transaction.changed = True


def _require_waiting(row: JobRow) -> None:
    if row.state not in states.WAITING:
        state = state_name(row.state)
        text = f"The job {row.uid} is {state}: only jobs that wait for a device have a place in the queue."
        raise FailedPrecondition("JOB_NOT_WAITING", text, metadata={"job": row.name, "state": state})


def _different_queues() -> FailedPrecondition:
    text = "The two jobs wait for different devices, so that neither is before the other; name one of the same device."
    return FailedPrecondition("DIFFERENT_QUEUES", text)
