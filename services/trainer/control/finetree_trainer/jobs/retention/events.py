# SPDX-License-Identifier: Apache-2.0
"""Removes the old events of ended jobs: announced to watchers first, removed at the next sweep."""

from functools import partial

from sqlalchemy import Connection

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.store import events, jobs


class EventRetention:
    """Removes events of ended jobs that are older than `retention` seconds; each job keeps its newest block."""

    def __init__(self, log: EventLog, *, retention: float) -> None:
        self._log, self._retention = log, retention

    async def sweep(self) -> None:
        """Remove the events that the last sweep announced, and announce the next ones."""
        store, announced = self._log.store, self._log.min_seq
        self._log.min_seq = {}
        for uid, oldest in announced.items():
            await store.write(partial(_remove, uid, oldest))
        before = self._log.clock() - int(self._retention * 1e6)
        for uid, oldest in await store.read(lambda connection: jobs.ended_before(connection, before)):
            last = await store.read(partial(_expired, uid, before))
            if last >= oldest:
                self._log.min_seq[uid] = last + 1


def _remove(uid: str, oldest: int, connection: Connection) -> None:
    events.remove_before(connection, uid, oldest)


def _expired(uid: str, before: int, connection: Connection) -> int:
    return events.expired_seq(connection, uid, before)
