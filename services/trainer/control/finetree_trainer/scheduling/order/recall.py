# SPDX-License-Identifier: Apache-2.0
"""What projects held of the devices before this run of the service, from the attempts of the last days."""

from dataclasses import replace

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.scheduling.devices import Slot
from finetree_trainer.scheduling.order.fair import RECALLED_SECONDS, DeviceUse
from finetree_trainer.store import attempts


async def recall_use(log: EventLog, use: DeviceUse, *, node: str) -> None:
    """Count the devices that projects held; `node` is the machine's name now, "" where there are several."""
    now = log.clock()
    since = now - int(RECALLED_SECONDS * 1e6)
    for held in await log.store.read(lambda connection: attempts.holdings_since(connection, since)):
        for text in held.slots.split(","):
            # The machine may have had another name then; its devices are the same.
            slot = Slot.parse(text)
            slot = replace(slot, node=node or slot.node)
            use.recall(held.project, slot, started=held.started, ended=held.ended or now, now=now)
