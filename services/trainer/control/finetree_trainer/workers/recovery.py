# SPDX-License-Identifier: Apache-2.0
"""Closes the attempt of a worker that is dead: what it left goes into the log, then its job goes on or ends."""

import asyncio
from contextlib import suppress
from pathlib import Path

from finetree_api.trainer.v1 import worker_pb2
from finetree_data import journal
from sqlalchemy import Connection

from finetree_trainer.joblog import ingest
from finetree_trainer.joblog.log import EventLog, FencedError
from finetree_trainer.joblog.transaction import Draft
from finetree_trainer.store import attempts

INTERRUPTIONS = 16
"""How often a job goes on after its worker was stopped with a checkpoint by no fault of its own."""
REPLAY_EVENTS = 500
"""Events of a dead worker's journal that are logged in one transaction."""


async def close_attempt(log: EventLog, uid: str, attempt: int, folder: Path, *, how: str, retries: int) -> None:
    """Log what the attempt's `folder` holds, and decide what becomes of its job; closed ones stay as they are.

    `how` the worker ended stands in the job's history; a failure of the machine is tried again `retries` times.
    """
    await _replay(log, uid, attempt, folder)

    def decide(draft: Draft, connection: Connection) -> bool:
        return ingest.after_death(draft, connection, attempt, how=how, retries=retries, interruptions=INTERRUPTIONS)

    await log.change(uid, decide)


async def _replay(log: EventLog, uid: str, attempt: int, folder: Path) -> None:
    """Log the events that never reached us, up to the first that is not ours to log."""
    row = await log.store.read(lambda connection: attempts.load(connection, uid, attempt))
    left = await asyncio.to_thread(journal.events_after, folder, row.acknowledged if row else 0)
    for start in range(0, len(left), REPLAY_EVENTS):
        part = left[start : start + REPLAY_EVENTS]

        def decide(draft: Draft, connection: Connection, part: list[worker_pb2.WorkerEvent] = part) -> int:
            return ingest.take(draft, connection, attempt, part)

        with suppress(FencedError, ingest.EventGapError):
            await log.change(uid, decide, attempt=attempt)
