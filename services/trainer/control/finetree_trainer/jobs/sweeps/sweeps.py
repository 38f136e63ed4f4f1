# SPDX-License-Identifier: Apache-2.0
"""Sweeps: planned and priced as a whole, created once for each request, read, listed, cancelled."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from finetree_api.trainer.v1 import job_pb2, sweep_pb2
from finetree_api.types.v1 import check_pb2
from finetree_runtime.errors import DomainError, NotFound
from finetree_runtime.ids import ResourceName, uuid7
from sqlalchemy import Connection

from finetree_trainer.clock import timestamp
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.jobs import Jobs
from finetree_trainer.jobs.planner import PlannedJob
from finetree_trainer.jobs.sweeps import rows, search, settings, template
from finetree_trainer.jobs.sweeps.price import estimate_of, require_affordable, require_limit_that_holds
from finetree_trainer.jobs.sweeps.rows import SweepRow
from finetree_trainer.jobs.sweeps.trials import described, new_trial, stop
from finetree_trainer.store import request_ids
from finetree_trainer.store.request_ids import RequestKey, body_hash
from finetree_trainer.store.sealed import Damaged, record_damaged

PLANNED_AT_ONCE = 8
"""Trials that are planned at the same time."""
LIVE = frozenset({sweep_pb2.SWEEP_STATE_RUNNING, sweep_pb2.SWEEP_STATE_CANCELLING})
"""States of a sweep that are not terminal."""


def sweep_not_found(uid: str) -> NotFound:
    """Make the error for a sweep that does not exist."""
    return NotFound("SWEEP_NOT_FOUND", f"There is no sweep {uid[:80]!r}; ListSweeps shows those that exist.")


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """A sweep as it would be created, and what else to know of its trials."""

    sweep: sweep_pb2.Sweep
    remarks: list[check_pb2.Remark]


Decide = Callable[[sweep_pb2.Sweep, Connection, int], bool]
"""Changes a sweep, given the time in microseconds; returns whether it did."""


class Sweeps:
    """Creates, reads, lists and cancels sweeps for the trainer's clients.

    Each of `listeners` is called after every change of a sweep.
    """

    def __init__(self, log: EventLog, jobs: Jobs) -> None:
        self._log, self._jobs = log, jobs
        self.listeners: list[Callable[[], None]] = []
        self._changed = asyncio.Condition()

    async def validate(self, project: str, asked: sweep_pb2.SweepTemplate) -> PlannedSweep:
        """Plan and price a sweep without creating it. Raises what ValidateSweep documents."""
        filled = template.filled(asked)
        values = search.choose(filled)
        gate = asyncio.Semaphore(PLANNED_AT_ONCE)

        async def plan(chosen: search.Values) -> PlannedJob:
            async with gate:
                return await self._plan_trial(project, filled, chosen)

        planned = await asyncio.gather(*(plan(chosen) for chosen in values))
        sweep = sweep_pb2.Sweep(
            template=filled,
            state=sweep_pb2.SWEEP_STATE_RUNNING,
            trials=[new_trial(filled, number, chosen) for number, chosen in enumerate(values, start=1)],
            estimate=estimate_of(filled, [job.estimate for job in planned]),
        )
        require_limit_that_holds(sweep)
        remarks = {remark.SerializeToString(): remark for job in planned for remark in job.remarks}
        return PlannedSweep(sweep, list(remarks.values()))

    async def _plan_trial(self, project: str, sweep: sweep_pb2.SweepTemplate, values: search.Values) -> PlannedJob:
        """Plan the job of a trial; its error says which values it would have had."""
        try:
            return await self._jobs.validate(project, settings.apply(sweep.job, list(sweep.parameters), values))
        except DomainError as error:
            trial = f" (trial with {described(sweep, values)})"
            error.message += trial
            error.violations = tuple(
                fault._replace(description=fault.description + trial) for fault in error.violations
            )
            raise

    async def create(self, project: str, owner: str, request: sweep_pb2.CreateSweepRequest) -> sweep_pb2.Sweep:
        """Create a sweep; it is durable when this returns. The same request id and body return the same sweep."""
        key = RequestKey(project, request.request_id, "CreateSweep", body_hash(request, "request_id"))
        known = await self._log.store.read(lambda connection: _sweep_of_request(connection, key))
        if known is not None:
            return known
        sweep = (await self.validate(project, request.sweep)).sweep
        require_affordable(sweep)
        uid, now = str(uuid7()), self._log.clock()
        sweep.name, sweep.uid = str(ResourceName(project, "sweeps", uid)), uid
        sweep.created_by, sweep.request_id = owner, request.request_id
        sweep.create_time.CopyFrom(timestamp(now))
        sweep.update_time.CopyFrom(timestamp(now))
        sweep.state_reason.CopyFrom(job_pb2.StateReason(code="TRIALS_RUN", text="Trials are run."))

        def write(connection: Connection) -> sweep_pb2.Sweep:
            made = _sweep_of_request(connection, key)
            if made is not None:
                return made
            request_ids.claim(connection, key, uid, now=now)
            rows.create(connection, SweepRow(uid, project, owner, sweep.state, now, sweep.SerializeToString()))
            return sweep

        created = await self._log.store.write(write)
        await self._announce()
        return created

    async def get(self, uid: str) -> sweep_pb2.Sweep:
        """Return a sweep. Raises NotFound SWEEP_NOT_FOUND, FailedPrecondition RECORD_DAMAGED."""
        row = await self._log.store.read(lambda connection: rows.load(connection, uid))
        if row is None:
            raise sweep_not_found(uid)
        return sweep_pb2.Sweep.FromString(row.record)

    async def wait(self, uid: str, *, known: int, seconds: float) -> sweep_pb2.Sweep:
        """Return a sweep once it has changed after `known` (microseconds), has ended, or the seconds are over."""
        now = asyncio.get_running_loop().time
        until = now() + seconds
        async with self._changed:
            # Under the lock from the read on: a change in between would wake nobody.
            while True:
                sweep = await self.get(uid)
                left = until - now()
                if left <= 0 or sweep.state not in LIVE or sweep.update_time.ToMicroseconds() > known:
                    return sweep
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), left)

    async def page(self, project: str, *, before: str, limit: int) -> list[sweep_pb2.Sweep]:
        """List sweeps of a project, newest first, older than the uid `before`, without templates and trials."""
        found = await self._log.store.read(
            lambda connection: rows.page(connection, project, before=before, limit=limit)
        )
        return [_short(row) for row in found]

    async def cancel(self, uid: str, *, key: RequestKey) -> sweep_pb2.Sweep:
        """Ask a sweep to stop. A request that was answered before changes nothing; nor does one to an ended sweep."""

        def decide(sweep: sweep_pb2.Sweep, connection: Connection, now: int) -> bool:
            repeated = request_ids.claim(connection, key, uid, now=now) is not None
            if repeated or sweep.state != sweep_pb2.SWEEP_STATE_RUNNING:
                return False
            stop(sweep, "CANCEL_REQUESTED", "Cancelled on request.")
            return True

        return await self.change(uid, decide)

    async def change(self, uid: str, decide: Decide) -> sweep_pb2.Sweep:
        """Load a sweep, let `decide` change it, and store it if that returns True, in one transaction.

        `decide` runs on the writer thread and must not block. Raises NotFound SWEEP_NOT_FOUND, FailedPrecondition
        RECORD_DAMAGED.
        """

        def write(connection: Connection) -> tuple[sweep_pb2.Sweep, bool]:
            row = rows.load(connection, uid)
            if row is None:
                raise sweep_not_found(uid)
            sweep, now = sweep_pb2.Sweep.FromString(row.record), self._log.clock()
            changed = decide(sweep, connection, now)
            if changed:
                # Strictly later than before: whoever waits for a change compares it.
                sweep.update_time.FromMicroseconds(max(now, sweep.update_time.ToMicroseconds() + 1))
                rows.save(connection, uid, state=sweep.state, record=sweep.SerializeToString())
            return sweep, changed

        sweep, changed = await self._log.store.write(write)
        if changed:
            await self._announce()
        return sweep

    async def _announce(self) -> None:
        for listener in self.listeners:
            listener()
        async with self._changed:
            self._changed.notify_all()


def _sweep_of_request(connection: Connection, key: RequestKey) -> sweep_pb2.Sweep | None:
    """The sweep that the same request has made. Raises AlreadyExists REQUEST_ID_REUSED."""
    answered = request_ids.find(connection, key)
    row = rows.load(connection, answered.resource) if answered is not None else None
    return sweep_pb2.Sweep.FromString(row.record) if row is not None else None


def _short(row: SweepRow) -> sweep_pb2.Sweep:
    """The sweep of a list; of a damaged one what its row says."""
    if isinstance(row.record, Damaged):
        damage = record_damaged(f"sweep {row.uid}")
        sweep = sweep_pb2.Sweep(name=str(ResourceName(row.project, "sweeps", row.uid)), uid=row.uid)
        sweep.state = sweep_pb2.SweepState.ValueType(row.state)
        sweep.state_reason.CopyFrom(job_pb2.StateReason(code=damage.reason, text=damage.message))
        sweep.create_time.CopyFrom(timestamp(row.create_time))
        return sweep
    sweep = sweep_pb2.Sweep.FromString(row.record)
    name = sweep.template.display_name
    sweep.ClearField("trials")
    sweep.ClearField("template")
    sweep.template.display_name = name
    return sweep
