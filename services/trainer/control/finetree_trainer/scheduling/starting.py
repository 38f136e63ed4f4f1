# SPDX-License-Identifier: Apache-2.0
"""Begins the attempt of a job that has been given slots, or fails a job whose inputs no longer exist."""

from collections.abc import Awaitable, Callable

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import DomainError, to_status
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.outages import is_outage


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
