# SPDX-License-Identifier: Apache-2.0
"""Removes the old events of ended jobs: announced to watchers first, removed at the next sweep."""

from collections.abc import Iterable
from functools import partial

from sqlalchemy import Connection

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.store import events

_LATER = (1 << 63) - 1
"""A time after every event."""


class EventRetention:
    """Removes events of ended jobs; each job keeps its newest block, which has its Terminal event."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def sweep(self, chosen: Iterable[str]) -> None:
        """Remove the events that the last sweep announced, and announce those of the jobs that are chosen now."""
        store, announced = self._log.store, self._log.min_seq
        self._log.min_seq = {}
        for uid, oldest in announced.items():
            await store.write(partial(_remove, uid, oldest))
        for uid in chosen:
            last = await store.read(partial(_removable, uid))
            if last:
                self._log.min_seq[uid] = last + 1


def _remove(uid: str, oldest: int, connection: Connection) -> None:
    events.remove_before(connection, uid, oldest)


def _removable(uid: str, connection: Connection) -> int:
    return events.expired_seq(connection, uid, _LATER)
