# SPDX-License-Identifier: Apache-2.0
"""Looks at the machine while jobs run or wait: other programs come and go, and a GPU may stop working.

A running job is never ended for what others take. It is told, once, when memory that it was promised is not there any
more, and again only after it has been there in between.
"""

import asyncio
from contextlib import suppress

from finetree.display.units import GIB
from finetree_api.trainer.v1 import event_pb2
from finetree_runtime.errors import DomainError
from sqlalchemy import Connection

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import FinishedError, Transaction
from finetree_trainer.scheduling.devices import CPU
from finetree_trainer.scheduling.memory import Budget, Budgets, MemoryLedger
from finetree_trainer.scheduling.queue import JobQueue

PERIOD_SECONDS = 5.0
"""Time between two looks. One costs some milliseconds of processor time."""
MEMORY_TAKEN, DEVICE_LOST = "PROMISED_MEMORY_TAKEN", "DEVICE_LOST"
"""Codes of alerts."""


class MachineWatch:
    """Alerts running jobs, and wakes the queue when a device works again."""

    def __init__(self, log: EventLog, queue: JobQueue, memory: MemoryLedger) -> None:
        self._log, self._queue, self._memory = log, queue, memory
        self._told: set[tuple[str, str]] = set()
        """(uid, code) of alerts whose cause is there still."""
        self._lost: set[tuple[str, str]] = set()
        """Places of devices that did not work at the last look."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        budgets = await self._memory.look()
        alerts = self._memory_alerts(budgets) | self._device_alerts(budgets)
        self._told &= alerts.keys()
        for (uid, code), text in alerts.items():
            if (uid, code) not in self._told:
                self._told.add((uid, code))
                await self._alert(uid, code, text)
        lost = {place for place, budget in budgets.devices.items() if budget.fault}
        if lost != self._lost:
            self._lost = lost
            self._queue.wake()

    def _memory_alerts(self, budgets: Budgets) -> dict[tuple[str, str], str]:
        found = {}
        for name, budget in (("the machine", budgets.host), *((id_, each) for (_, id_), each in _gpus(budgets))):
            if not budget.taken_from_jobs:
                continue
            for held in budget.held:
                if held.outstanding:
                    found[held.job, MEMORY_TAKEN] = (
                        f"{held.promised / GIB:.1f} GiB of memory were promised to this job and it uses "
                        f"{held.used / GIB:.1f}, but {name} has only {budget.free / GIB:.1f} GiB free: "
                        f"{budget.in_words()}. It goes on, and fails if it needs more than is left; "
                        "end what else runs there, or pause the job."
                    )
        return found

    def _device_alerts(self, budgets: Budgets) -> dict[tuple[str, str], str]:
        faults = {place: budget.fault for place, budget in _gpus(budgets) if budget.fault}
        return {
            (holder.uid, DEVICE_LOST): f"{slot.device} is taken out: {faults[slot.node, slot.device]}. "
            "No job starts on it; an attempt that fails there is tried again on another device, if there is one."
            for slot, holder in self._queue.holders().items()
            if holder is not None and (slot.node, slot.device) in faults
        }

    async def _alert(self, uid: str, code: str, text: str) -> None:
        def decide(transaction: Transaction, _connection: Connection) -> None:
            alert = event_pb2.Alert(code=code, message=text)
            transaction.add(event_pb2.JobEvent(alert=alert, message=text))

        # It has ended meanwhile, or the store is away: an alert is worth neither an error nor a retry.
        with suppress(DomainError, FinishedError):
            await self._log.change(uid, decide)


def _gpus(budgets: Budgets) -> list[tuple[tuple[str, str], Budget]]:
    return [(place, budget) for place, budget in budgets.devices.items() if place[1] != CPU]
