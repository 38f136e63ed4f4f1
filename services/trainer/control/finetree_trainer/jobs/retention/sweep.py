# SPDX-License-Identifier: Apache-2.0
"""The background work of retention: one sweep after another, whatever goes wrong in one of its parts."""

import asyncio
from collections.abc import Awaitable, Callable

from finetree_trainer.jobs.retention.deletion import Deletions
from finetree_trainer.jobs.retention.events import EventRetention
from finetree_trainer.outages import log_failure

SWEEP_SECONDS = 3600.0
"""Time between two sweeps: in it watchers learn of the coming removal from `min_seq` in their heartbeats."""


class RetentionSweep:
    """Removes what nothing is kept for any more, an hour after the last time."""

    def __init__(self, deletions: Deletions, events: EventRetention) -> None:
        self._parts: dict[str, Callable[[], Awaitable[None]]] = {
            "finish_deletions": deletions.finish,
            "remove_events": events.sweep,
        }

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Do each part once. One that fails is logged and left to the next sweep, and keeps no other from its turn."""
        for name, part in self._parts.items():
            try:
                await part()
            except Exception as error:  # noqa: BLE001 - a damaged store or a full disk must not end retention for good
                log_failure(error, doing=name)
