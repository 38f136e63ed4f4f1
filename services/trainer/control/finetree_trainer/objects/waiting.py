# SPDX-License-Identifier: Apache-2.0
"""Lets jobs wait for their data beside the queue: what an attempt reads is fetched before its turn counts."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from finetree_api.trainer.v1 import job_pb2
from finetree_data.weights import checkpoint
from finetree_runtime.errors import DomainError
from finetree_runtime.server.logging import get_logger

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.outages import Pauses, is_outage, log_failure
from finetree_trainer.store.jobs import JobRow

T = TypeVar("T")

WAITING_FOR_DATA, DAMAGED = "WAITING_FOR_DATA", "OBJECT_DAMAGED"
"""Code of the reason for which a job waits, and reason of data that no attempt may begin on."""
RETRIED = "It is tried again every few seconds; look at the object store and at the trainer's log."


@dataclass(frozen=True, slots=True)
class Waits:
    """What a job waits for: a stable code, the same in words, and what would end it, empty for nothing."""

    code: str
    text: str
    remedy: str = ""


class DataWait:
    """Jobs that wait for their data.

    `locate(uid)` fetches what a job names, as its start will look for it; `wake` is called when an answer has changed.
    """

    def __init__(
        self,
        log: EventLog,
        layout: Layout,
        copies: Copies,
        *,
        locate: Callable[[str], Awaitable[object]],
        wake: Callable[[], None],
    ) -> None:
        self._log, self._layout, self._copies = log, layout, copies
        self._locate, self._wake = locate, wake
        self._fetches: dict[str, asyncio.Task[None]] = {}
        self._blocked: dict[str, Waits] = {}
        """Why jobs wait; a job whose fetch is over waits no longer."""
        self._refusals: dict[str, DomainError] = {}
        log.listeners.append(self._on_change)

    def blocked(self, row: JobRow) -> Waits | None:
        """Why a waiting job may not start yet; None once its data are here. The first call begins to fetch them."""
        if not self._copies.enabled:
            return None
        if row.uid not in self._fetches:
            self._blocked[row.uid] = Waits(WAITING_FOR_DATA, "its data are fetched from the object store")
            self._fetches[row.uid] = asyncio.create_task(self._fetch(row.uid))
        return self._blocked.get(row.uid)

    def checked(self, start: Callable[[str, T], Awaitable[bool]]) -> Callable[[str, T], Awaitable[bool]]:
        """Return `start`, which raises the refusal of a job's data, a copy that is damaged, and begins nothing then."""

        async def checked(uid: str, slots: T) -> bool:
            if (refusal := self._refusals.get(uid)) is not None:
                raise refusal
            return await start(uid, slots)

        return checked

    def stop(self) -> None:
        """End the fetches."""
        for fetch in self._fetches.values():
            fetch.cancel()

    def _on_change(self, row: JobRow) -> None:
        if row.state in states.WAITING:
            return
        fetch = self._fetches.pop(row.uid, None)
        if fetch is not None:
            fetch.cancel()
            self._blocked.pop(row.uid, None)
            self._refusals.pop(row.uid, None)

    async def _fetch(self, uid: str) -> None:
        pauses = Pauses()
        while True:
            try:
                await self._checkpoints(uid)
                await self._locate(uid)
                break
            except DomainError as error:
                if not is_outage(error):
                    # Its start meets the same refusal, and fails the job; a damaged copy is not fetched again for that.
                    if error.reason == DAMAGED:
                        self._refusals[uid] = error
                    break
                self._blocked[uid] = Waits(error.reason, f"its data cannot be fetched: {error.message}", RETRIED)
                log_failure(error, doing="fetch_data", job=uid)
            except OSError as error:
                self._blocked[uid] = Waits(WAITING_FOR_DATA, f"its data cannot be written: {error.strerror}", RETRIED)
                log_failure(error, doing="fetch_data", job=uid)
            self._wake()
            await asyncio.sleep(pauses.following())
        self._blocked.pop(uid, None)
        self._wake()

    async def _checkpoints(self, uid: str) -> None:
        """Fetch the checkpoint that a next attempt goes on from, and the best one, which it publishes in the end.

        A copy that is damaged is passed over, as one on the disk is.
        """
        row = await self._log.row(uid)
        if not row.attempt or row.task != job_pb2.TASK_KIND_TRAIN:
            return
        folder = self._layout.checkpoints(uid)
        with suppress(DomainError):  # what is known of the store still counts while it is away
            await self._copies.refresh(folder)
        on_disk = set(await asyncio.to_thread(checkpoint.steps, folder))
        for step in sorted(self._copies.steps(folder).keys() | on_disk, reverse=True):
            if await self._ensure(uid, step):
                break
        best = job_pb2.Job.FromString(row.snapshot).best_checkpoint_step
        if best:
            await self._ensure(uid, best)

    async def _ensure(self, uid: str, step: int) -> bool:
        """Return whether a checkpoint is on the disk now."""
        place = self._layout.checkpoints(uid) / checkpoint.folder_name(step)
        try:
            await self._copies.ensure(place)
        except DomainError as error:
            if is_outage(error):
                raise
            get_logger().error("checkpoint_passed_over", job=uid, step=step, reason=error.reason)
            return False
        return place.is_dir()
