# SPDX-License-Identifier: Apache-2.0
"""Ends workers that are alive and do nothing: stopped, frozen or deadlocked.

A worker has a thread of its own for its stream, and says something at least every half interval. Silence alone proves
nothing, since a library that keeps Python's lock while it writes a large file silences that thread too; so a worker
is ended only if in the same time its process has used no processor, read nothing and written nothing.
"""

import asyncio
from collections.abc import Callable, Iterable

from finetree_trainer.scheduling.memory import WorkerProcess
from finetree_trainer.workers.session import Worker, process_of

MISSED = 3
"""Whole intervals without a message and without progress that a worker is given. One more check ends it."""


class Heartbeats:
    """Checks all workers once in each interval; `end(worker, why)` kills one.

    Checks are counted, not time: a service that was suspended itself misses its own checks, and no worker is blamed.
    `lease` is the silence in seconds after which a worker is ended whatever its process does: by then it has given the
    service up.
    """

    def __init__(
        self,
        workers: Callable[[], Iterable[Worker]],
        *,
        interval: float,
        lease: float,
        end: Callable[[Worker, str], None],
    ) -> None:
        self._workers, self._interval, self._end = workers, interval, end
        self._longest = max(MISSED, lease / interval)

    def processes(self) -> list[WorkerProcess]:
        """The processes of all workers that live."""
        return [found for worker in self._workers() if (found := process_of(worker)) is not None]

    def unknown(self) -> int:
        """Workers of an earlier run of the service that may be alive or dead: nobody can look at their process."""
        return sum(worker.process is None for worker in self._workers())

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            self.check()

    def check(self) -> None:
        """Count one more check without a message for each worker that sent none, and end those that do nothing.

        What workers print is cut where it has grown too long.
        """
        for worker in list(self._workers()):
            self._check(worker)
            if worker.process is not None:
                worker.process.limit_output()

    def _check(self, worker: Worker) -> None:
        process = worker.process
        if process is None or process.dead.is_set() or not worker.expected:
            return
        if worker.handling:
            # Its message waits for the store: nothing more can be heard of it before that is back.
            worker.silent = worker.still = 0
            return
        activity = process.activity()
        unchanged = activity is not None and activity == worker.activity
        worker.activity = activity
        worker.silent += 1
        worker.still = worker.still + 1 if unchanged else 0
        if min(worker.silent, worker.still) > MISSED:
            seconds = worker.silent * self._interval
            self._end(worker, f"nothing was heard of it for {seconds:g} s, and its process did nothing meanwhile")
        elif worker.silent > self._longest:
            self._end(worker, f"nothing was heard of it for {worker.silent * self._interval:g} s")
