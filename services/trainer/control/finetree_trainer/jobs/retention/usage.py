# SPDX-License-Identifier: Apache-2.0
"""What takes how much room, and what the next sweep would remove."""

import asyncio
import shutil
from collections import defaultdict

from finetree_api.trainer.v1 import retention_pb2

from finetree_trainer.clock import duration, timestamp
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.retention.inventory import Inventory, Item
from finetree_trainer.jobs.retention.plan import removals
from finetree_trainer.jobs.retention.policy import Kind, Policy
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies

DEFAULT_REMOVALS = 100
"""Removals that are listed where a request says nothing."""


class StorageReport:
    """Answers GetStorage."""

    def __init__(self, log: EventLog, layout: Layout, policy: Policy, copies: Copies) -> None:
        self._log, self._layout, self._policy = log, layout, policy
        self._inventory = Inventory(log, layout, copies)

    async def report(self, project: str | None, *, limit: int) -> retention_pb2.GetStorageResponse:
        """Describe a project, or all of them for None."""
        items = await self._inventory.items(project)
        groups: dict[tuple[bool, str, Kind], list[Item]] = defaultdict(list)
        for item in items:
            groups[not item.project, item.project, item.kind].append(item)
        chosen = removals(items, self._policy, self._log.clock())
        free = await asyncio.to_thread(shutil.disk_usage, self._layout.root)
        return retention_pb2.GetStorageResponse(
            usage=[self._usage(own, kind, group) for (_, own, kind), group in sorted(groups.items())],
            removals=[
                retention_pb2.StorageRemoval(
                    name=each.item.name,
                    kind=each.item.kind,
                    size_bytes=each.item.size,
                    time=timestamp(each.item.time),
                    cause=each.cause,
                )
                for each in chosen[: limit or DEFAULT_REMOVALS]
            ],
            removal_bytes=sum(each.item.size for each in chosen),
            removal_count=len(chosen),
            free_bytes=free.free,
        )

    def _usage(self, project: str, kind: Kind, group: list[Item]) -> retention_pb2.StorageUsage:
        limit = self._policy.limit(project, kind)
        return retention_pb2.StorageUsage(
            project=f"projects/{project}" if project else "",
            kind=kind,
            size_bytes=sum(item.size for item in group),
            count=len(group),
            max_age=duration(limit.age) if limit.age else None,
            max_bytes=limit.bytes,
        )
