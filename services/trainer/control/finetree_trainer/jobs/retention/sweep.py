# SPDX-License-Identifier: Apache-2.0
"""The background work of retention: one sweep after another, whatever goes wrong in one of its parts."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from finetree_api.trainer.v1 import artifact_pb2, retention_pb2
from finetree_runtime.errors import DomainError
from finetree_runtime.ids import ResourceName
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection

from finetree_trainer.datasets.datasets import Datasets
from finetree_trainer.disk import remove_tree
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.retention import rows, users
from finetree_trainer.jobs.retention.checkpoints import CheckpointKeeping, require_unpinned
from finetree_trainer.jobs.retention.deletion import Deletions
from finetree_trainer.jobs.retention.events import EventRetention
from finetree_trainer.jobs.retention.inventory import Inventory, Item
from finetree_trainer.jobs.retention.leftovers import remove_left_copies, remove_leftovers
from finetree_trainer.jobs.retention.plan import removals
from finetree_trainer.jobs.retention.policy import Policy
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.outages import log_failure
from finetree_trainer.store import artifacts

SWEEP_SECONDS = 3600.0
"""Time between two sweeps: in it watchers learn of the coming removal from `min_seq` in their heartbeats."""


class RetentionSweep:
    """Removes what nothing is kept for any more, at the start and then every hour."""

    def __init__(
        self,
        log: EventLog,
        layout: Layout,
        policy: Policy,
        *,
        deletions: Deletions,
        checkpoints: CheckpointKeeping,
        datasets: Datasets,
        copies: Copies,
    ) -> None:
        self._copies = copies
        self._log, self._layout, self._policy = log, layout, policy
        self._deletions, self._checkpoints, self._datasets = deletions, checkpoints, datasets
        self._inventory, self._events = Inventory(log, layout, copies), EventRetention(log)
        self._parts: dict[str, Callable[[], Awaitable[object]]] = {
            "finish_deletions": deletions.finish,
            "remove_leftovers": partial(remove_leftovers, log.store, layout, datasets.contents),
            "remove_left_copies": partial(remove_left_copies, log.store, layout, copies, datasets.contents),
            "retention": self._remove_expired,
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

    async def _remove_expired(self) -> None:
        chosen = removals(await self._inventory.items(), self._policy, self._log.clock())
        of_events = [each.item for each in chosen if each.item.kind == retention_pb2.STORAGE_KIND_EVENTS]
        await self._events.sweep(item.uid for item in of_events)
        for each in chosen:
            if each.item.kind == retention_pb2.STORAGE_KIND_EVENTS:
                continue
            try:
                await self._remove(each.item)
            except DomainError as error:
                # Somebody has begun to use it since it was looked at.
                get_logger().info("retention_kept", resource=each.item.name, reason=error.reason)
            except Exception as error:  # noqa: BLE001 - one that cannot be removed must not keep the others
                log_failure(error, doing="retention", resource=each.item.name)
            else:
                cause = retention_pb2.RemovalCause.Name(each.cause)
                get_logger().info("retention_removed", resource=each.item.name, cause=cause, freed_bytes=each.item.size)

    async def _remove(self, item: Item) -> None:
        job = ResourceName(item.project, "jobs", item.uid)
        match item.kind:
            case retention_pb2.STORAGE_KIND_JOBS:
                await asyncio.to_thread(require_unpinned, self._layout, job)
                await self._deletions.remove(job, cause=rows.EXPIRED)
            case retention_pb2.STORAGE_KIND_CHECKPOINTS:
                await self._checkpoints.discard(job, int(item.part))
            case retention_pb2.STORAGE_KIND_ARTIFACTS:
                await self._remove_artifact(item)
            case retention_pb2.STORAGE_KIND_DATASETS:
                await self._datasets.delete(item.uid, item.project)
            case retention_pb2.STORAGE_KIND_TOKEN_CACHES:
                await asyncio.to_thread(remove_tree, self._layout.tokens / item.part)

    async def _remove_artifact(self, item: Item) -> None:
        def work(connection: Connection) -> int:
            users.require_unused([use for use in users.uses(connection) if use.used == item.name])
            record = artifacts.load(connection, item.uid, item.part)
            artifacts.remove(connection, item.uid, item.part)
            return artifact_pb2.Artifact.FromString(record).attempt if record is not None else 0

        attempt = await self._log.store.write(work)
        place = self._layout.artifacts(item.uid, attempt) / item.part
        await asyncio.to_thread(remove_tree, place)
        await self._copies.remove(place)
