# SPDX-License-Identifier: Apache-2.0
"""Ends jobs that reach their deadline, longest duration or highest cost; trainings publish what they have."""

import asyncio

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import DomainError
from finetree_runtime.money import to_decimal

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.jobs import Jobs
from finetree_trainer.outages import log_failure
from finetree_trainer.store.jobs import JobRow

TICK_SECONDS = 1.0
"""Time between two checks: how exactly limits are kept."""


class TimeLimits:
    """Checks every job that has a limit, once a second."""

    def __init__(self, log: EventLog, jobs: Jobs) -> None:
        self._log, self._jobs = log, jobs
        self._limited: dict[str, job_pb2.Job] = {}
        self._live: dict[str, JobRow] = {}
        log.listeners.append(self._on_change)

    def recover(self, rows: list[JobRow]) -> None:
        """Take over the jobs of an earlier run of the service."""
        for row in rows:
            self._on_change(row)

    def _on_change(self, row: JobRow) -> None:
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

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            for row in list(self._live.values()):
                try:
                    await self._enforce(row)
                except DomainError as refusal:
                    log_failure(refusal, doing="enforce_limits", job=row.uid)
            await asyncio.sleep(TICK_SECONDS)

    async def _enforce(self, row: JobRow) -> None:
        reached = broken_limit(self._limited[row.uid], job_pb2.Job.FromString(row.snapshot), self._log.clock())
        if reached is not None:
            await self._jobs.cancel(row.uid, save=True, limit=reached.code, why=reached.text)
            self._live.pop(row.uid, None)


def has_limits(record: job_pb2.Job) -> bool:
    """Return whether a job has a limit that can end it before its work is done."""
    limits = record.limits
    return record.HasField("deadline") or limits.HasField("max_duration") or limits.HasField("max_cost")


def broken_limit(record: job_pb2.Job, snapshot: job_pb2.Job, now: int) -> job_pb2.StateReason | None:
    """Return which of a job's limits is exceeded at `now` (microseconds) as the reason of its end; None for none.

    `record` is the job as created, `snapshot` the part of it that changes.
    """
    if record.HasField("deadline") and now > record.deadline.ToMicroseconds():
        return job_pb2.StateReason(code="DEADLINE_REACHED", text="The job's deadline has passed.")
    limits = record.limits
    if limits.HasField("max_duration") and snapshot.HasField("start_time"):
        # Not while it is paused: `resume` adds what has passed since.
        until = snapshot.pause_time.ToMicroseconds() if snapshot.HasField("pause_time") else now
        ran = until - snapshot.start_time.ToMicroseconds() - snapshot.paused_duration.ToMicroseconds()
        if ran > limits.max_duration.ToMicroseconds():
            return job_pb2.StateReason(code="MAX_DURATION_REACHED", text="The job has reached its longest duration.")
    if limits.HasField("max_cost") and snapshot.cost.HasField("amount"):
        cost, most = to_decimal(snapshot.cost.amount), to_decimal(limits.max_cost)
        if cost > most:
            text = f"The job has cost {cost:.4g} {limits.max_cost.currency_code}; its limit is {most:.4g}."
            return job_pb2.StateReason(code="MAX_COST_REACHED", text=text)
    return None
