# SPDX-License-Identifier: Apache-2.0
"""What keeps a job from starting beside its devices; and its start, or its failure where inputs no longer exist."""

from collections.abc import Awaitable, Callable

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import DomainError, to_status
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.limits.quotas import QUOTA_REMEDY, WAITING_FOR_QUOTA, Planned, Quotas
from finetree_trainer.objects.waiting import WAITING_FOR_DATA, Waits
from finetree_trainer.outages import is_outage
from finetree_trainer.scheduling.demand import Demand
from finetree_trainer.scheduling.fit import Blocked
from finetree_trainer.scheduling.waiting import WaitingJob
from finetree_trainer.store.jobs import JobRow


async def start_or_fail(log: EventLog, uid: str, start: Callable[[], Awaitable[bool]]) -> bool:
    """Begin an attempt; return whether that was done. Raises what an outage raises, which changes nothing."""
    try:
        return await start()
    except DomainError as refusal:
        if is_outage(refusal):
            raise
        await _fail(log, uid, refusal)
    return False


async def _fail(log: EventLog, uid: str, refusal: DomainError) -> None:
    def decide(transaction: Transaction, _connection: Connection) -> None:
        if transaction.row.state in states.WAITING:
            transaction.finish(
                job_pb2.JOB_STATE_FAILED,
                refusal.reason,
                refusal.message,
                error=to_status(refusal),
                category=job_pb2.FAILURE_CATEGORY_USER,
                retryable=refusal.retry_delay is not None,
            )

    await log.change(uid, decide)


class StartLimits:
    """The limits of all projects, and the object store; `waits` says why a job's data are not here yet."""

    def __init__(self, quotas: Quotas, waits: Callable[[JobRow], Waits | None]) -> None:
        self._quotas, self._waits = quotas, waits

    def may_start(self, row: JobRow, demand: Demand) -> Blocked | None:
        """Say what keeps a job from starting now; None: nothing does."""
        held_back = self._quotas.held_back(row, demand.counted)
        if held_back is not None:
            return Blocked(WAITING_FOR_QUOTA, str(held_back), remedy=QUOTA_REMEDY, metadata=held_back.metadata())
        waits = self._waits(row)
        return Blocked(waits.code, waits.text, remedy=waits.remedy) if waits is not None else None

    def planned(self) -> "PlannedStarts":
        """Jobs that could start on nodes that are to come: none is counted yet."""
        return PlannedStarts(self._quotas, self._waits)


class PlannedStarts:
    """Which waiting jobs could start on nodes that are to come, each beside those that were added."""

    def __init__(self, quotas: Quotas, waits: Callable[[JobRow], Waits | None]) -> None:
        self._quotas, self._waits, self._planned = quotas, waits, Planned()

    def allows(self, job: WaitingJob) -> bool:
        """Return whether neither a limit of its project nor a store that is away keeps a job from starting."""
        if self._quotas.held_back(job.row, job.demand.counted, self._planned) is not None:
            return False
        waits = self._waits(job.row)
        return waits is None or waits.code == WAITING_FOR_DATA

    def add(self, job: WaitingJob) -> None:
        """Count a job as if it ran."""
        self._planned.add(job.row, job.demand.counted)
