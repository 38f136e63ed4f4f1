# SPDX-License-Identifier: Apache-2.0
"""Leases of served base models: each ends by itself when nobody asks, and gives its device to a job that waits for it.

A lease lives in memory: after a restart of the service it begins anew, and the worker, which goes on meanwhile, ends at
the latest when `orphan_grace` is over.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetree_api.trainer.v1 import job_pb2, serving_pb2
from finetree_runtime.errors import DomainError, FailedPrecondition
from sqlalchemy import Connection

from finetree_trainer.clock import Clock, timestamp
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.outages import log_failure
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.workers.supervisor import Supervisor

TICK_SECONDS = 1.0
"""Time between two looks at all leases: how exactly they end."""
EXPIRED, YIELDED = "LEASE_EXPIRED", "LEASE_YIELDED"
"""Codes of the reason for which a job has SUCCEEDED."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a job is kept without being asked, microseconds: at all, and while another one waits for its device."""

    lease: int
    yield_after: int


@dataclass(slots=True)
class _Lease:
    name: str
    terms: Terms
    used: int
    """When it was asked for the last time, or began, microseconds since 1970."""
    generations: int = 0
    """Calls of Generate that it is answering."""
    users: int = 0
    """Calls of any kind that it is answering."""
    sequences: int = 0
    """Answers that those calls want, one for each of their targets."""
    ended: bool = False


class Use:
    """A call that keeps a lease until it is released, which renews the lease."""

    def __init__(self, lease: _Lease, clock: Clock, sequences: int) -> None:
        self._lease, self._clock, self._sequences = lease, clock, sequences
        self._released = False
        self._count(1)

    def release(self) -> None:
        """Give the lease back; the second time nothing happens."""
        if not self._released:
            self._released = True
            self._count(-1)
            self._lease.used = self._clock()

    def _count(self, by: int) -> None:
        self._lease.users += by
        self._lease.generations += by * (self._sequences > 0)
        self._lease.sequences += by * self._sequences


class Leases:
    """The leases of all jobs that serve and are RUNNING."""

    def __init__(self, log: EventLog, queue: JobQueue, supervisor: Supervisor) -> None:
        self._log, self._queue, self._supervisor = log, queue, supervisor
        self._terms: dict[str, Terms] = {}
        self._held: dict[str, _Lease] = {}
        log.listeners.append(self._on_change)
        queue.about_holders = self._in_words

    def recover(self, rows: Iterable[JobRow]) -> None:
        """Begin the leases of an earlier run of the service anew."""
        for row in rows:
            self._on_change(row)

    def _on_change(self, row: JobRow) -> None:
        if row.task != job_pb2.TASK_KIND_SERVE:
            return
        if row.record and not row.end_time:
            self._terms[row.uid] = _terms_of(job_pb2.Job.FromString(row.record).serve)
        if row.state == job_pb2.JOB_STATE_RUNNING and row.uid in self._terms:
            if row.uid not in self._held:
                self._held[row.uid] = _Lease(row.name, self._terms[row.uid], self._log.clock())
            return
        self._held.pop(row.uid, None)
        if row.end_time:
            self._terms.pop(row.uid, None)

    def use(self, row: JobRow, *, sequences: int = 0) -> "Use":
        """Keep the lease of a RUNNING job while a call is answered; `sequences` answers are asked for by it.

        Raises FailedPrecondition LEASE_EXPIRED where it has just ended.
        """
        if row.uid not in self._held:
            # The row was read before the listeners were told of it; one that has ended meanwhile has no terms any more.
            self._on_change(row)
        lease = self._held.get(row.uid)
        if lease is None or lease.ended:
            raise lease_expired("")
        return Use(lease, self._log.clock, sequences)

    def sequences(self, uid: str) -> int:
        """Answers that a job is asked for now."""
        lease = self._held.get(uid)
        return lease.sequences if lease is not None else 0

    def get(self, uid: str) -> serving_pb2.ServingLease | None:
        """The lease of a job; None where it holds none."""
        lease = self._held.get(uid)
        return self._message(lease) if lease is not None and not lease.ended else None

    def named(self, names: Sequence[str]) -> list[serving_pb2.ServingLease]:
        """The leases of those of some jobs, by their resource names, that hold one."""
        wanted = set(names)
        return [self._message(lease) for lease in self._held.values() if lease.name in wanted and not lease.ended]

    def _message(self, lease: _Lease) -> serving_pb2.ServingLease:
        since = self._log.clock() if lease.users else lease.used
        return serving_pb2.ServingLease(
            job=lease.name,
            expire_time=timestamp(since + lease.terms.lease),
            yield_time=timestamp(since + lease.terms.yield_after),
            generations=lease.generations,
        )

    async def run(self) -> None:
        """End leases until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(TICK_SECONDS)

    async def check(self) -> None:
        """End each lease that is over, or whose device is wanted, unless its job is being asked."""
        now = self._log.clock()
        for uid, lease in list(self._held.items()):
            idle = now - lease.used
            if lease.users or lease.ended:
                continue
            if idle >= lease.terms.lease:
                await self._end(uid, lease, EXPIRED, f"Nobody asked it for {idle / 1e6:.0f} s: its lease ended.")
            elif idle >= lease.terms.yield_after and self._queue.is_wanted(uid):
                text = f"Nobody asked it for {idle / 1e6:.0f} s, and a job waits for its device: its lease ended early."
                await self._end(uid, lease, YIELDED, text)

    async def _end(self, uid: str, lease: _Lease, code: str, text: str) -> None:
        def finish(transaction: Transaction, _connection: Connection) -> bool:
            if transaction.row.state != job_pb2.JOB_STATE_RUNNING:
                return False
            transaction.finish(job_pb2.JOB_STATE_SUCCEEDED, code, text)
            return True

        # Before the transaction: a call that comes meanwhile must not begin on what is being ended.
        lease.ended = True
        try:
            change = await self._log.change(uid, finish)
        except DomainError as error:
            lease.ended = False
            log_failure(error, doing="end_lease", job=uid)
            return
        if change.result:
            self._supervisor.end(uid, change.row.attempt)
        else:
            # Begun by a call that had read the job just before it ended.
            self._held.pop(uid, None)

    def _in_words(self) -> dict[str, str]:
        """When each job that serves gives its devices up."""
        return {
            uid: f"serves a model and gives way when nobody has asked it for {lease.terms.yield_after / 1e6:.0f} s"
            for uid, lease in self._held.items()
            if not lease.ended
        }


def lease_expired(why: str) -> FailedPrecondition:
    """Build the error for a job whose lease has ended; `why` is its reason as the job has it."""
    text = f"{why or 'The lease of the job has ended.'} Create another job that serves."
    return FailedPrecondition("LEASE_EXPIRED", text)


def _terms_of(task: serving_pb2.ServeTask) -> Terms:
    return Terms(task.lease.ToMicroseconds(), task.yield_after.ToMicroseconds())
