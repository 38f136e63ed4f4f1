# SPDX-License-Identifier: Apache-2.0
"""Which waiting jobs could start on nodes that are to come, each beside those before it."""

from collections.abc import Callable

from finetree_trainer.limits.quotas import Planned, Quotas
from finetree_trainer.objects.waiting import WAITING_FOR_DATA, Waits
from finetree_trainer.scheduling.waiting import WaitingJob
from finetree_trainer.store.jobs import JobRow


class PlannedStarts:
    """The limits of all projects, and the object store; `blocked` says why a job's data are not here yet."""

    def __init__(self, quotas: Quotas, blocked: Callable[[JobRow], Waits | None]) -> None:
        self._quotas, self._blocked, self._planned = quotas, blocked, Planned()

    def allows(self, job: WaitingJob) -> bool:
        """Return whether neither a limit of its project nor a store that is away keeps a job from starting."""
        if self._quotas.held_back(job.row, job.demand.counted, self._planned) is not None:
            return False
        waits = self._blocked(job.row)
        return waits is None or waits.code == WAITING_FOR_DATA

    def add(self, job: WaitingJob) -> None:
        """Count a job as if it ran."""
        self._planned.add(job.row, job.demand.counted)
