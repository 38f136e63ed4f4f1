# SPDX-License-Identifier: Apache-2.0
"""Refuses what goes beyond a limit of a project or a principal.

What must hold also between two calls at once and over a restart (jobs, bytes, money) is counted in the database, in
the transaction that adds to it. Open streams are counted in memory, and running jobs by their changes.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import FailedPrecondition
from finetree_runtime.server.limits.file import LOOK_SECONDS, LimitsFile
from finetree_runtime.server.limits.places import OpenStreams
from finetree_runtime.server.limits.table import (
    PREEMPTIBLE,
    PROJECTS,
    UNPRICED,
    WEIGHT,
    WORDS,
    Budget,
    Caller,
    LimitTable,
    exceeded,
)
from sqlalchemy import Connection

from finetree_trainer.limits import usage
from finetree_trainer.limits.periods import day_of, end_of_day, end_of_month
from finetree_trainer.limits.spending import expected_cost
from finetree_trainer.limits.usage import MICROS
from finetree_trainer.settings import Settings
from finetree_trainer.store.jobs import JobRow

WAITING_FOR_QUOTA = "WAITING_FOR_QUOTA"
"""Code of the state reason of a job that waits because as many of its project or principal run as may."""
QUOTA_REMEDY = "It starts when running jobs of the project or the principal end, or the operator raises the limit."
_RUNNING = frozenset(
    {
        job_pb2.JOB_STATE_PREPARING,
        job_pb2.JOB_STATE_RUNNING,
        job_pb2.JOB_STATE_PAUSING,
        job_pb2.JOB_STATE_CANCELLING,
    }
)
"""States in which a job has a worker."""
_WITH_DEVICES = frozenset({job_pb2.TASK_KIND_TRAIN, job_pb2.TASK_KIND_EVALUATE, job_pb2.TASK_KIND_SERVE})
"""Tasks that hold devices; others have the slot for PREPARE jobs."""
QUEUE_SECONDS = 30.0
"""What a client is told to wait where a queue is full."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What keeps a waiting job from starting: a limit, whose it is, its value, and what is used and needed of it."""

    limit: str
    subject: str
    value: int
    used: int
    needed: int

    def metadata(self) -> dict[str, str]:
        """The same for programs, as a refusal has it, and what the job needs."""
        figures = {"value": self.value, "used": self.used, "needed": self.needed}
        return {"limit": self.limit, "subject": self.subject} | {name: str(each) for name, each in figures.items()}

    def __str__(self) -> str:
        """Say it for people, in words that stay the same while it waits."""
        what = f"{self.subject} may have {self.value} {WORDS[self.limit]}"
        if self.needed > self.value:
            return f"{what} and this job needs {self.needed}; it starts when the limit is raised"
        if self.needed > 1:
            return f"{what} and this job needs {self.needed} of them; it starts when so many are left"
        return f"{what}, and has them; it starts when one has ended"


@dataclass(frozen=True, slots=True)
class _Running:
    caller: Caller
    attempt: int
    devices: int


def usual_limits(settings: Settings) -> dict[str, dict[str, int]]:
    """Limits that the trainer's settings state: defaults that a limits file goes before."""
    return {
        "projects": {"dataset_bytes": settings.max_project_bytes},
        "principals": {"watchers": settings.max_watchers_per_caller},
    }


@dataclass(slots=True)
class Planned:
    """Jobs that do not run yet and are to: how many, and their devices, by subject."""

    jobs: Counter[str] = field(default_factory=Counter)
    devices: Counter[str] = field(default_factory=Counter)

    def add(self, row: JobRow, devices: int) -> None:
        """Count a job of so many devices."""
        for subject in Caller(row.owner, row.project).subjects:
            self.jobs[subject] += 1
            self.devices[subject] += devices


class Quotas:
    """The limits of all projects and principals, and what counts for them."""

    def __init__(self, file: LimitsFile) -> None:
        self.file = file
        self.open = OpenStreams(file)
        """Watches, uploads and Generate streams."""
        self._running: dict[str, _Running] = {}
        self._jobs: Counter[str] = Counter()
        self._devices: Counter[str] = Counter()
        """Running jobs and their devices, by subject."""

    @property
    def table(self) -> LimitTable:
        """The limits in force."""
        return self.file.table

    # ------------------------------------------------------------------------ in the transaction that adds to it

    def require_queue(self, connection: Connection, caller: Caller) -> None:
        """Raise ResourceExhausted QUEUE_FULL where no more jobs of the caller may wait."""
        for subject, value in self._numbers("queued_jobs", caller):
            used = usage.queued_jobs(connection, subject)
            if used >= value:
                todo = "try again when some have run"
                raise exceeded(
                    "queued_jobs", subject, value, used, todo=todo, reason="QUEUE_FULL", retry_delay=QUEUE_SECONDS
                )

    def require_bytes(self, connection: Connection, caller: Caller, size: int) -> None:
        """Raise ResourceExhausted DATASET_TOO_LARGE where a dataset of `size` bytes has no room."""
        for subject, value in self._numbers("dataset_bytes", caller):
            used = usage.dataset_bytes(connection, subject)
            if used + size > value:
                todo = f"delete datasets before {size} bytes more"
                raise exceeded("dataset_bytes", subject, value, used, todo=todo, reason="DATASET_TOO_LARGE")

    def note_uploaded(self, connection: Connection, caller: Caller, count: int, now: int) -> None:
        """Count bytes that have arrived."""
        if count > 0:
            usage.note_uploaded(connection, caller.project, caller.principal, day_of(now), count)

    def require_upload(self, connection: Connection, caller: Caller, now: int) -> None:
        """Raise ResourceExhausted QUOTA_EXCEEDED where the caller's bytes of this day have all come."""
        for subject, value in self._numbers("upload_bytes_per_day", caller):
            used = usage.uploaded(connection, subject, day_of(now))
            if used >= value:
                todo, delay = "go on tomorrow (UTC)", (end_of_day(now) - now) / 1e6
                raise exceeded("upload_bytes_per_day", subject, value, used, todo=todo, retry_delay=delay)

    def reserve(self, connection: Connection, record: job_pb2.Job, now: int) -> None:
        """Count what a new job may cost in this month.

        Raises ResourceExhausted QUOTA_EXCEEDED where the month's money does not suffice, FailedPrecondition
        COST_UNKNOWN for a training without a price that counts against it.
        """
        row = expected_cost(record, now)
        caller = Caller(row.owner, row.project)
        for subject, budget in self._budgets(caller):
            if row.currency != budget.currency:
                self._refuse_unpriced(record, caller, subject, budget, row.currency)
                continue
            used = usage.month_cost(connection, subject, row.month, budget.currency).micros
            if used + row.reserved > budget.amount * MICROS:
                spent = Budget(Decimal(used) / MICROS, budget.currency)
                more = Budget(Decimal(row.reserved) / MICROS, budget.currency)
                todo = f"this job may cost {more}; give it a lower max_cost, or wait for the next month"
                delay = (end_of_month(now) - now) / 1e6
                raise exceeded("monthly_cost", subject, budget, spent, todo=todo, retry_delay=delay)
        usage.reserve(connection, row)

    def _refuse_unpriced(
        self, record: job_pb2.Job, caller: Caller, subject: str, budget: Budget, currency: str
    ) -> None:
        allowed = self.table.value(UNPRICED, caller.subjects[0]) == "allow"
        if allowed or record.WhichOneof("task") != "train":
            return
        known = f"is in {currency}" if currency else "is not known"
        if not record.HasField("estimate"):
            known = "is not known, since the estimator does not answer"
        todo = f"name hardware with a price in {budget.currency}, or have the operator add one"
        text = f"{subject} may spend {budget} a month, and what this training costs {known}: {todo}."
        raise FailedPrecondition("COST_UNKNOWN", text, metadata={"limit": "monthly_cost", "subject": subject})

    def _numbers(self, limit: str, caller: Caller) -> list[tuple[str, int]]:
        """Subjects of a caller that have a limit, and its value."""
        found = [(subject, self.table.value(limit, subject)) for subject in caller.subjects]
        return [(subject, int(value)) for subject, value in found if value is not None]

    def _budgets(self, caller: Caller) -> list[tuple[str, Budget]]:
        found = [(subject, self.table.value("monthly_cost", subject)) for subject in caller.subjects]
        return [(subject, value) for subject, value in found if isinstance(value, Budget)]

    # ------------------------------------------------------------------------------------------- running jobs

    async def watch_file(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the limits have: a job that waited for one may start now. Runs until cancelled."""
        known = self.table
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.table is not known:
                known = self.table
                changed()

    def recover(self, rows: Iterable[JobRow]) -> None:
        """Count the jobs that run already, at the start of the service."""
        for row in rows:
            self.on_change(row)

    def on_change(self, row: JobRow) -> None:
        """Count a job and its devices while it runs."""
        known = self._running.get(row.uid)
        runs = row.state in _RUNNING
        if known is not None and not (runs and known.attempt == row.attempt):
            self._count(self._running.pop(row.uid), -1)
        if runs and row.uid not in self._running:
            self._running[row.uid] = _Running(Caller(row.owner, row.project), row.attempt, _devices_of(row))
            self._count(self._running[row.uid], 1)

    def _count(self, job: _Running, by: int) -> None:
        for subject in job.caller.subjects:
            self._jobs[subject] += by
            self._devices[subject] += by * job.devices

    def running(self, subject: str) -> int:
        """How many jobs of a subject run."""
        return self._jobs[subject]

    def devices(self, subject: str) -> int:
        """How many devices the running jobs of a subject hold; a slot of a CPU is one."""
        return self._devices[subject]

    def held_back(self, row: JobRow, devices: int, beside: "Planned | None" = None) -> HeldBack | None:
        """Return the limit for which a waiting job that needs so many devices may not start yet; None: it may.

        `beside`: jobs that count as if they ran.
        """
        if row.uid in self._running:
            return None
        more = beside or Planned()
        needs = (("running_jobs", self._jobs, more.jobs, 1), ("devices", self._devices, more.devices, devices))
        for limit, running, planned, needed in needs:
            for subject, value in self._numbers(limit, Caller(row.owner, row.project)):
                used = running[subject] + planned[subject]
                if needed and used + needed > value:
                    return HeldBack(limit, subject, value, used, needed)
        return None

    def weight(self, project: str) -> float | None:
        """Weight of a project among those that wait for devices, 1 unless it has one; None where no project has any."""
        if not self.table.limits_any(WEIGHT, PROJECTS):
            return None
        stated = self.table.value(WEIGHT, f"{PROJECTS}/{project}")
        return 1.0 if stated is None else float(stated)

    def preemptible(self, project: str) -> bool:
        """Whether running trainings of a project give way to any job of a higher priority."""
        return bool(self.table.value(PREEMPTIBLE, f"{PROJECTS}/{project}"))


def _devices_of(row: JobRow) -> int:
    if row.task not in _WITH_DEVICES:
        return 0
    return sum(len(placement.device_ids) for placement in job_pb2.Job.FromString(row.snapshot).placements)
