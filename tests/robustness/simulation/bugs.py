# SPDX-License-Identifier: Apache-2.0
"""Bugs that the simulation must find, planted one at a time: a check that finds nothing proves nothing."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from finetree_trainer.joblog import transaction, watch
from finetree_trainer.scheduling import queue
from finetree_trainer.store import events, request_ids
from finetree_trainer.workers.launch import local
from finetree_trainer.workers.process import Liveness
from machine import SimulatedWriter


def _living_workers_are_taken_for_dead() -> Any:
    """After a restart a worker is buried without proof of its death."""
    return mock.patch.object(local, "liveness", return_value=Liveness.DEAD)


def _a_cursor_is_off_by_one() -> Any:
    """A watcher that comes back gets its last event again."""

    async def start(self: Any, request: Any, uid: str) -> int:
        return max(0, await real(self, request, uid) - 1)

    real = watch.Watches.start
    return mock.patch.object(watch.Watches, "start", start)


def _the_terminal_event_is_lost() -> Any:
    """A job ends without its last event."""

    def add(self: Any, event: Any) -> None:
        if event.HasField("terminal"):
            self._closed = True
        else:
            real(self, event)

    real = transaction.Transaction.add
    return mock.patch.object(transaction.Transaction, "add", add)


def _a_number_is_used_twice() -> Any:
    """Two events have one number, sometimes."""

    def add(self: Any, event: Any) -> None:
        if self.events and self.row.last_seq % 5 == 0:
            self.row.last_seq -= 1
        real(self, event)

    real = transaction.Transaction.add
    return mock.patch.object(transaction.Transaction, "add", add)


def _request_ids_are_forgotten() -> Any:
    """A repeated request is taken for a new one."""
    return mock.patch.object(request_ids, "find", return_value=None)


def _waiting_jobs_are_forgotten() -> Any:
    """After a restart nobody knows of the queue."""
    return mock.patch.object(queue.JobQueue, "recover", return_value=None)


def _slots_stay_taken() -> Any:
    """The slot of a dead worker is not given back."""
    return mock.patch.object(queue.JobQueue, "release", return_value=None)


def _slots_are_given_twice() -> Any:
    """A slot is free although a job holds it."""
    return mock.patch.object(queue.JobQueue, "hold", return_value=None)


def _times_follow_the_clock() -> Any:
    """A clock that was set back while the trainer was down sets the log's times back."""

    def made(self: Any, row: Any, now: int) -> None:
        real(self, row, now)
        self.now = now

    real = transaction.Transaction.__init__
    return mock.patch.object(transaction.Transaction, "__init__", made)


def _burial_gives_up() -> Any:
    """The end of a dead attempt is tried once, whatever happens."""

    async def once(work: Callable[[], Any], **_: Any) -> Any:
        return await work()

    from finetree_trainer.workers import recovery

    return mock.patch.object(recovery, "until_done", once)


def _watchers_are_told_before_the_commit() -> Any:
    """What a write is going to store is answered and published, then the write fails on a full disk."""

    def turn(self: Any) -> None:
        full, self.machine.disk_full = self.machine.disk_full, False
        try:
            if full:
                self._lose()
            else:
                real(self)
        finally:
            self.machine.disk_full = full

    def lose(self: Any) -> None:
        self._due = False
        group = [work for work in self._waiting if work.future.set_running_or_notify_cancel()]
        self._waiting.clear()
        connection = self._connected()
        with connection.begin() as begun:
            for work in group:
                try:
                    work.done = work.run(connection)
                except Exception as error:  # noqa: BLE001 - it goes where the real one sends it
                    work.failure = error
            begun.rollback()
        for work in group:
            work.future.set_exception(work.failure) if work.failure else work.future.set_result(work.done)

    real = SimulatedWriter._turn
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(SimulatedWriter, "_turn", turn))
    stack.enter_context(mock.patch.object(SimulatedWriter, "_lose", lose, create=True))
    return stack


def _blocks_are_lost() -> Any:
    """Now and then a block of events is not stored, although the job's row counts it."""

    def append(connection: Any, row: Any, found: Any, **kept: Any) -> Any:
        if len(found) != 1 or row.last_seq % 4:
            return real(connection, row, found, **kept)
        return real(connection, row, [], **kept)

    real = events.append
    return mock.patch.object(events, "append", append)


BUGS: dict[str, tuple[Callable[[], Any], int, int]] = {
    maker.__name__.strip("_"): (maker, first, last)
    for maker, first, last in (
        (_living_workers_are_taken_for_dead, 1, 40),
        (_a_cursor_is_off_by_one, 1, 20),
        (_the_terminal_event_is_lost, 1, 10),
        (_a_number_is_used_twice, 3, 12),
        (_request_ids_are_forgotten, 1, 10),
        (_waiting_jobs_are_forgotten, 1, 20),
        (_slots_stay_taken, 1, 20),
        (_slots_are_given_twice, 1, 20),
        (_times_follow_the_clock, 61, 120),
        (_burial_gives_up, 1, 60),
        (_watchers_are_told_before_the_commit, 1, 20),
        (_blocks_are_lost, 1, 20),
    )
}
"""What plants each bug, and the first and the last of the seeds among which one must find it."""


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Run the block with a bug; with none where no name is given."""
    with BUGS[name][0]() if name else contextlib.nullcontext():
        yield
