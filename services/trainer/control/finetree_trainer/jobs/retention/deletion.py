# SPDX-License-Identifier: Apache-2.0
"""Deletes jobs: their rows in one transaction, which is what counts, then their files, if need be at the next start."""

import asyncio
from functools import partial

from finetree_api.trainer.v1 import retention_pb2
from finetree_data.fail_points import fail_point
from finetree_runtime.errors import FailedPrecondition, NotFound, Unavailable
from finetree_runtime.ids import ResourceName
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection

from finetree_trainer.clock import timestamp
from finetree_trainer.disk import folder_bytes, remove_tree
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog, job_not_found
from finetree_trainer.jobs.jobs import Jobs
from finetree_trainer.jobs.retention import rows, users
from finetree_trainer.jobs.retention.checkpoints import require_unpinned
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.outages import log_failure
from finetree_trainer.store import attempts, request_ids
from finetree_trainer.store import jobs as job_store
from finetree_trainer.store.request_ids import RequestKey


class Deletions:
    """Deletes jobs on request and by time, and removes the files of those that a killed service left."""

    def __init__(self, log: EventLog, layout: Layout, jobs: Jobs, copies: Copies) -> None:
        self._log, self._layout, self._jobs, self._copies = log, layout, jobs, copies

    async def delete(self, name: ResourceName, request: retention_pb2.DeleteJobRequest, key: RequestKey) -> int:
        """Delete a job, once for each request; return the bytes of its files.

        Raises NotFound (JOB_NOT_FOUND, JOB_EXPIRED), FailedPrecondition (JOB_NOT_ENDED, JOB_IN_USE,
        CHECKPOINT_PINNED), AlreadyExists REQUEST_ID_REUSED.
        """
        answered = await self._log.store.read(partial(request_ids.find, key=key))
        if answered is not None:
            return retention_pb2.DeleteJobResponse.FromString(answered.reply).freed_bytes
        await self._log.store.read(partial(self._check, name=name, force=request.force))
        if not request.force:
            await asyncio.to_thread(require_unpinned, self._layout, name)
        if request.validate_only:
            return await asyncio.to_thread(folder_bytes, self._layout.job(name.id))
        await self._end(name)
        fail_point("deletion.after_end")
        return await self.remove(name, cause=rows.DELETED, key=key)

    async def remove(self, name: ResourceName, *, cause: str, key: RequestKey | None = None) -> int:
        """Delete a job that has ended, and return the bytes of its files. Raises as `delete` without `force`."""
        freed = await asyncio.to_thread(folder_bytes, self._layout.job(name.id))
        reply = retention_pb2.DeleteJobResponse(freed_bytes=freed)

        def work(connection: Connection) -> int:
            now = self._log.clock()
            if key is not None:
                answered = request_ids.find(connection, key)
                if answered is not None:
                    return retention_pb2.DeleteJobResponse.FromString(answered.reply).freed_bytes
            self._check(connection, name=name, force=False)
            if _has_worker(connection, name.id):
                raise _not_ended(name)
            if key is not None:
                request_ids.claim(connection, key, name.id, now=now, reply=reply.SerializeToString())
            rows.remove(connection, rows.RemovedJob(name.id, name.project, cause, now, freed))
            return freed

        freed = await self._log.store.write(work)
        fail_point("deletion.after_commit")
        self._log.min_seq.pop(name.id, None)
        get_logger().info("job_removed", job=name.id, cause=cause, freed_bytes=freed)
        await self._remove_files(name.id)
        return freed

    async def finish(self) -> None:
        """Remove the files of deleted jobs that are still there: those of a service that was killed meanwhile."""
        for uid in await self._log.store.read(rows.with_files):
            await self._remove_files(uid)

    async def _remove_files(self, uid: str) -> None:
        folder = self._layout.job(uid)
        # Twice: the output of a worker that has just ended may arrive there meanwhile.
        if await asyncio.to_thread(remove_tree, folder) or await asyncio.to_thread(remove_tree, folder):
            try:
                await self._copies.remove_below(folder)
            except Unavailable as error:
                # The job is deleted all the same; its row says that there is something left, for the next sweep.
                log_failure(error, doing="remove_copies", job=uid)
                return
            fail_point("deletion.before_note")
            await self._log.store.write(partial(rows.note_files_gone, uid=uid))
        else:
            get_logger().error("files_left", job=uid)

    def _check(self, connection: Connection, *, name: ResourceName, force: bool) -> None:
        """Raise unless the job is there, has ended, and nobody uses it; with `force` it need not have ended."""
        row = job_store.span(connection, name.id)
        if row is None or job_store.project_of(connection, name.id) != name.project:
            raise gone(connection, name)
        if not force and row.state not in states.TERMINAL:
            raise _not_ended(name)
        users.require_unused(users.of_job(users.uses(connection), str(name)))

    async def _end(self, name: ResourceName) -> None:
        """Cancel a job that has not ended, and wait until its worker is dead, which till then writes files."""
        changed = asyncio.Event()

        def listen(row: job_store.JobRow) -> None:
            if row.uid == name.id:
                changed.set()

        self._log.listeners.append(listen)
        try:
            await self._jobs.cancel(name.id, save=False, why="Cancelled to be deleted.")
            while await self._log.store.read(partial(_lives, uid=name.id)):
                await changed.wait()
                changed.clear()
        finally:
            self._log.listeners.remove(listen)


def _lives(connection: Connection, uid: str) -> bool:
    row = job_store.span(connection, uid)
    return row is not None and (row.state not in states.TERMINAL or _has_worker(connection, uid))


def _has_worker(connection: Connection, uid: str) -> bool:
    """Whether a worker may still write into a job's folder: an attempt of it is not proven dead."""
    return any(not attempt.ended for attempt in attempts.of_job(connection, uid))


def gone(connection: Connection, name: ResourceName) -> NotFound:
    """Build the error for a job that is not there: whether retention deleted it, as far as that is known."""
    removed = rows.find(connection, name.id)
    if removed is None or removed.cause != rows.EXPIRED or removed.project != name.project:
        return job_not_found(name.id)
    time = timestamp(removed.remove_time).ToJsonString()
    return NotFound("JOB_EXPIRED", f"Retention deleted job {name.id} at {time}.", metadata={"expire_time": time})


def _not_ended(name: ResourceName) -> FailedPrecondition:
    text = f"{name} has not ended, or its worker is still ending; cancel it and wait, or set force"
    return FailedPrecondition("JOB_NOT_ENDED", f"{text}.", violations=[(str(name), text, "JOB_NOT_ENDED")])
