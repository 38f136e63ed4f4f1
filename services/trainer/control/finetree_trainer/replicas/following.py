# SPDX-License-Identifier: Apache-2.0
"""Follows the leader: shows the watchers of this replica what that one stores, and knows where it is reached."""

import asyncio
from functools import partial

from finetree_runtime.errors import DomainError
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.project.watch import ProjectWatches
from finetree_trainer.replicas.listener import Listener
from finetree_trainer.replicas.stored import READ_BLOCKS, StoredBlock, blocks_after, leader_of, newest_position
from finetree_trainer.store.backends.postgresql import PostgreSQL

POLL_SECONDS = 1.0
"""Longest time between two looks: how late what a lost notification told is shown."""


class Following:
    """Looks into the database at each notification, and every `POLL_SECONDS` without one."""

    def __init__(self, log: EventLog, projects: ProjectWatches, backend: PostgreSQL) -> None:
        self._log, self._projects, self._backend = log, projects, backend
        self._position = 0
        self._committed = asyncio.Event()
        self.leader = ""
        """Where the leader is reached, as the database had it at the last look; "" where it had none."""

    async def begin(self) -> None:
        """Note how far everything is stored: what comes later is shown."""
        self._position = await self._log.store.read(newest_position)
        _, self.leader = await self._log.store.read(leader_of)

    async def run(self) -> None:
        """Follow until cancelled, again after whatever went wrong: nothing else tells the watchers of this replica."""
        listener: Listener | None = None
        try:
            while True:
                try:
                    if listener is None:
                        listener = Listener(self._backend.listening(), asyncio.get_running_loop(), self._committed.set)
                    await self.catch_up()
                except Exception as error:  # noqa: BLE001 - whatever it is, what is stored must be shown in the end
                    if isinstance(error, DomainError):
                        get_logger().warning("replica_cannot_follow", reason=error.reason)
                    else:
                        get_logger().error("replica_cannot_follow", exc_info=error)
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    await self._next_commit()
        finally:
            if listener is not None:
                await asyncio.to_thread(listener.close)

    async def _next_commit(self) -> None:
        try:
            await asyncio.wait_for(self._committed.wait(), POLL_SECONDS)
        except TimeoutError:
            return
        self._committed.clear()

    async def catch_up(self) -> None:
        """Show everything that is stored by now. Raises the store's errors."""
        while True:
            blocks, self.leader = await self._log.store.read(partial(self._read, watched=self._log.watched()))
            for block in blocks:
                self._log.show(block.uid, block.events, block.last_seq)
                self._projects.publish(block.project, block.position, block.kinds)
                self._position = block.position
            if len(blocks) < READ_BLOCKS:
                return

    def _read(self, connection: Connection, watched: list[str]) -> tuple[list[StoredBlock], str]:
        return blocks_after(connection, self._position, watched), leader_of(connection)[1]
