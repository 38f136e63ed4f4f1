# SPDX-License-Identifier: Apache-2.0
"""What happens by the clock: jobs that reach their limits are stopped, events that retention ends are removed."""

import asyncio
from functools import partial

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import DomainError
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.jobs import Jobs
from finetree_trainer.store import events, jobs
from finetree_trainer.store.jobs import JobRow

TICK_SECONDS = 1.0
"""How exactly limits of time are kept."""

SWEEP_SECONDS = 3600.0
"""Time between two sweeps of old events: what watchers have to learn of the coming cut from their heartbeats."""


class Upkeep:
    """Keeps limits and retention."""

    def __init__(self, log: EventLog, jobs_: Jobs, *, retention: float) -> None:
        self._log, self._jobs, self._retention = log, jobs_, retention
        self._limited: dict[str, job_pb2.Job] = {}
        self._live: dict[str, JobRow] = {}
        log.listeners.append(self._note)

    def _note(self, row: JobRow) -> None:
        if row.record:
            record = job_pb2.Job.FromString(row.record)
            if has_limits(record):
                self._limited[row.uid] = record
        if row.uid not in self._limited:
            return
        if row.state in states.LIVE and row.state != job_pb2.JOB_STATE_CANCELLING:
            self._live[row.uid] = row
        else:
            self._live.pop(row.uid, None)
            self._limited.pop(row.uid)

    def recover(self, rows: list[JobRow]) -> None:
        """Take up the jobs of an earlier run of the service."""
        for row in rows:
            self._note(row)

    async def run(self) -> None:
        """Work for ever."""
        sweep = 0.0
        while True:
            try:
                for row in list(self._live.values()):
                    await self._enforce(row)
                if sweep <= 0:
                    await self.sweep()
                    sweep = SWEEP_SECONDS
            except DomainError as refusal:
                get_logger().error("upkeep_refused", reason=refusal.reason)
            sweep -= TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)

    async def _enforce(self, row: JobRow) -> None:
        why = broken_limit(self._limited[row.uid], job_pb2.Job.FromString(row.snapshot), self._log.clock())
        if why:
            self._live.pop(row.uid, None)
            await self._jobs.cancel(row.uid, save=True, why=why)

    async def sweep(self) -> None:
        """Announce the next cut of each ended job, and make the cut that the last sweep announced."""
        before = self._log.clock() - int(self._retention * 1e6)
        announced, self._log.min_seq = self._log.min_seq, {}
        for uid, oldest in announced.items():
            await self._log.store.write(partial(_cut, uid, oldest))
        for uid, oldest in await self._log.store.read(lambda connection: jobs.ended_before(connection, before)):
            last = await self._log.store.read(partial(_expired, uid, before))
            if last >= oldest:
                self._log.min_seq[uid] = last + 1


def broken_limit(record: job_pb2.Job, live: job_pb2.Job, now: int) -> str:
    """Which of a job's limits is passed at `now` (microseconds), in words; "" for none.

    `record` is the job as created, `live` the changing part of it.
    """
    if record.HasField("deadline") and now > record.deadline.ToMicroseconds():
        return "The job's deadline has passed."
    duration = record.limits.duration.ToMicroseconds()
    if duration and live.HasField("start_time") and now - live.start_time.ToMicroseconds() > duration:
        return "The job has run for its longest time."
    if record.limits.cost and live.cost.amount > record.limits.cost:
        return (
            f"The job has cost {live.cost.amount:.4g} {live.cost.currency_code}, its limit is {record.limits.cost:g}."
        )
    return ""


def has_limits(record: job_pb2.Job) -> bool:
    """Whether anything can end a job before its work is done."""
    return record.HasField("deadline") or bool(record.limits.cost) or record.limits.HasField("duration")


def _cut(uid: str, oldest: int, connection: Connection) -> None:
    events.cut(connection, uid, oldest)


def _expired(uid: str, before: int, connection: Connection) -> int:
    return events.expired_seq(connection, uid, before)
