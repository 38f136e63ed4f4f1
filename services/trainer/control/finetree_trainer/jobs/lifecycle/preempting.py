# SPDX-License-Identifier: Apache-2.0
"""Preempts running trainings for waiting jobs of a higher priority: by a pause after which they wait again."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import DomainError
from sqlalchemy import Connection

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import Change, EventLog
from finetree_trainer.joblog.transaction import FinishedError, Transaction
from finetree_trainer.scheduling.order.preemption import OVER_SHARE, PREEMPTIBLE, Claim, Running, Terms, victims
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.scheduling.waiting import WaitingJob
from finetree_trainer.settings import Settings
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.workers.supervisor import Supervisor

_WHY = {
    PREEMPTIBLE: "jobs of this project may be preempted",
    OVER_SHARE: "this project has a larger share of the devices",
}


class Preempting:
    """Follows the trainings that run, and has some yield when the queue asks for it.

    `preemptible(project)` says whether jobs of a project may be preempted by any job of a higher priority.
    """

    def __init__(
        self,
        log: EventLog,
        queue: JobQueue,
        supervisor: Supervisor,
        settings: Settings,
        *,
        preemptible: Callable[[str], bool],
    ) -> None:
        self._log, self._queue, self._supervisor = log, queue, supervisor
        self._preemptible = preemptible
        self._terms = Terms(settings.preempt_max_lost, settings.preempt_min_run)
        self._attempts: dict[str, JobRow] = {}
        """Jobs that have a worker."""
        self._saved: dict[str, int] = {}
        """When each of them saved its newest checkpoint since the service began."""
        if self._terms.max_lost:
            log.listeners.append(self._on_change)
            log.followers.append(self._on_events)
            queue.make_way = self.make_way

    def recover(self, rows: Iterable[JobRow]) -> None:
        """Follow the jobs that run already. Their checkpoints count from the next one on."""
        for row in rows:
            self._on_change(row)

    def _on_change(self, row: JobRow) -> None:
        if row.state in states.WITH_WORKER:
            self._attempts[row.uid] = row
        else:
            self._attempts.pop(row.uid, None)
            self._saved.pop(row.uid, None)

    def _on_events(self, change: Change[Any]) -> None:
        for event in change.events:
            if event.HasField("checkpoint_saved"):
                self._saved[event.job_uid] = event.event_time.ToMicroseconds()

    async def make_way(self, waiting: WaitingJob) -> None:
        """Preempt as many trainings as the next job in turn needs devices; none where they would not suffice."""
        row, now = waiting.row, self._log.clock()
        running = [self._running(each) for each in self._attempts.values() if _trains(each)]
        claim = Claim(waiting.demand, row.priority, lambda each: self._cause(each, waiting))
        leaving = [
            slot
            for each in self._attempts.values()
            if each.state in (job_pb2.JOB_STATE_PAUSING, job_pb2.JOB_STATE_CANCELLING)
            for slot in self._queue.slots.of(each.uid)
        ]
        free = self._queue.slots.free
        for victim in victims(claim, running, free=free, leaving=leaving, terms=self._terms, now=now):
            # It has ended meanwhile, or the store is away: the next round asks again.
            with suppress(DomainError, FinishedError):
                await self._preempt(victim, waiting)

    def _running(self, row: JobRow) -> Running:
        # An attempt begins with what the newest checkpoint has.
        saved = max(row.attempt_started, self._saved.get(row.uid, 0))
        slots = self._queue.slots.of(row.uid)
        return Running(row.uid, row.project, row.priority, slots, started=row.attempt_started, saved=saved)

    def _cause(self, running: Running, waiting: WaitingJob) -> str:
        """Say why a training may be preempted for a job; empty: it may not."""
        use, demand = self._queue.use, waiting.demand
        if running.project != waiting.project and use.weighted:
            gives, needs, now = len(running.slots), demand.count, self._log.clock()
            over = use.is_over(running.project, gives, waiting.project, needs, kind=demand.kind, now=now)
            return OVER_SHARE if over else ""
        return PREEMPTIBLE if self._preemptible(running.project) else ""

    async def _preempt(self, victim: Running, waiting: WaitingJob) -> None:
        cause, same = self._cause(victim, waiting), victim.project == waiting.project
        priority = job_pb2.JobPriority.Name(job_pb2.JobPriority.ValueType(waiting.row.priority))
        metadata = {"cause": cause, "by_priority": priority.removeprefix("JOB_PRIORITY_")}
        if same:
            metadata["by"] = waiting.row.name
        text = (
            f"Preempted by a job of the priority {metadata['by_priority']} of {'this' if same else 'another'} project, "
            f"since {_WHY[cause]}: a checkpoint is saved, then it waits again at its place."
        )

        def decide(transaction: Transaction, _connection: Connection) -> bool:
            row = transaction.row
            if not _trains(row) or row.attempt_started != victim.started or row.priority >= waiting.row.priority:
                return False
            transaction.move(job_pb2.JOB_STATE_PAUSING, states.PREEMPTED, text, metadata=metadata)
            return True

        change = await self._log.change(victim.uid, decide)
        if change.result:
            self._supervisor.pause(victim.uid, change.row.attempt)


def _trains(row: JobRow) -> bool:
    return row.task == job_pb2.TASK_KIND_TRAIN and row.state == job_pb2.JOB_STATE_RUNNING
