# SPDX-License-Identifier: Apache-2.0
"""What keeps a waiting job from starting although its devices are free: limits of its project, and its data."""

from collections.abc import Callable

from finetree_trainer.limits.quotas import QUOTA_REMEDY, WAITING_FOR_QUOTA, Planned, Quotas
from finetree_trainer.objects.waiting import WAITING_FOR_DATA, Waits
from finetree_trainer.scheduling.demand import Demand
from finetree_trainer.scheduling.fit import Blocked
from finetree_trainer.scheduling.waiting import WaitingJob
from finetree_trainer.store.jobs import JobRow


class StartLimits:
    """The limits of all projects, and the object store; `waits` says why a job's data are not here yet."""

    def __init__(self, quotas: Quotas, waits: Callable[[JobRow], Waits | None]) -> None:
        self._quotas, self._waits = quotas, waits

    def may_start(self, row: JobRow, demand: Demand) -> Blocked | None:
        """Say what keeps a job from starting now; None: nothing does."""
        held_back = self._quotas.held_back(row, demand.counted)
        if held_back is not None:
            return Blocked(WAITING_FOR_QUOTA, str(held_back), remedy=QUOTA_REMEDY, metadata=held_back.metadata())
        waits = self._waits(row)
        return Blocked(waits.code, waits.text, remedy=waits.remedy) if waits is not None else None

    def planned(self) -> "PlannedStarts":
        """Jobs that could start on nodes that are to come: none is counted yet."""
        return PlannedStarts(self._quotas, self._waits)


class PlannedStarts:
    """Which waiting jobs could start on nodes that are to come, each beside those that were added."""

    def __init__(self, quotas: Quotas, waits: Callable[[JobRow], Waits | None]) -> None:
        self._quotas, self._waits, self._planned = quotas, waits, Planned()

    def allows(self, job: WaitingJob) -> bool:
        """Return whether neither a limit of its project nor a store that is away keeps a job from starting."""
        if self._quotas.held_back(job.row, job.demand.counted, self._planned) is not None:
            return False
        waits = self._waits(job.row)
        return waits is None or waits.code == WAITING_FOR_DATA

    def add(self, job: WaitingJob) -> None:
        """Count a job as if it ran."""
        self._planned.add(job.row, job.demand.counted)
