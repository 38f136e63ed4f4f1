# SPDX-License-Identifier: Apache-2.0
"""The object store of a running trainer: its copies, and what works on them beside the queue."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.layout import Layout
from finetree_trainer.objects.cache import Cache
from finetree_trainer.objects.copies import Copies
from finetree_trainer.objects.uploads import Uploads
from finetree_trainer.objects.waiting import DataWait

SETTLE_SECONDS = 60.0
"""Time after which a replica that led before has ended: it looks at the database every two seconds."""


class ObjectStorage:
    """What uploads, fetches and drops. Without a store nothing of it runs.

    `in_use` is as for Cache; `locate` and `wake` are as for DataWait.
    """

    def __init__(
        self,
        log: EventLog,
        layout: Layout,
        copies: Copies,
        *,
        cache_bytes: int,
        in_use: Callable[[], Awaitable[set[Path]]],
        locate: Callable[[str], Awaitable[object]],
        wake: Callable[[], None],
    ) -> None:
        self.copies = copies
        self.data = DataWait(log, layout, copies, locate=locate, wake=wake)
        self.cache = Cache(copies, cache_bytes, in_use)
        self.uploads = Uploads(log, layout, copies, self.cache.trim)

    def take_over(self) -> None:
        """Begin to lead as one of several replicas, of which another may have led before and live for a moment."""
        if self.copies.enabled:
            self.copies.take_over()
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.uploads.settle)

    def loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Background loops by their names."""
        return {"object_uploads": self.uploads.run, "object_cache": self.cache.run} if self.copies.enabled else {}

    def stop(self) -> None:
        """End what is on its way; the next run of the service goes on with it."""
        self.data.stop()
        self.copies.close()
