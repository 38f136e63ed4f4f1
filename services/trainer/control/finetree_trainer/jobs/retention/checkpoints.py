# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are kept or go: pinned, given a time, deleted; and what is downloaded of one."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2, job_pb2
from finetree_data.fail_points import fail_point
from finetree_data.weights import checkpoint
from finetree_data.weights.errors import WeightsError
from finetree_runtime.errors import FailedPrecondition, NotFound, OutOfRange
from finetree_runtime.ids import ResourceName
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection

from finetree_trainer.disk import folder_bytes, full_disk_refused, remove_tree
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.artifacts import CHUNK_BYTES
from finetree_trainer.jobs.retention import users
from finetree_trainer.layout import Layout
from finetree_trainer.models.checkpoints import Checkpoints
from finetree_trainer.models.portable_checkpoint import PortableFile, portable_files
from finetree_trainer.models.weights import whole_steps
from finetree_trainer.objects.copies import Copies
from finetree_trainer.store import jobs, request_ids
from finetree_trainer.store.request_ids import RequestKey

REQUESTS_KEPT = 64
"""Requests that a folder names: far more than can be under way at once, which alone may be missing in the store."""
HASHES_KEPT = 64
"""Described files that are remembered by the manifest's hash: a download asks for a file again after each break."""


class CheckpointKeeping:
    """Changes how long checkpoints are kept, deletes them, and reads them for download."""

    def __init__(self, log: EventLog, layout: Layout, checkpoints: Checkpoints, copies: Copies) -> None:
        self._log, self._layout, self._checkpoints, self._copies = log, layout, checkpoints, copies
        self._described: dict[tuple[str, str], artifact_pb2.ArtifactFile] = {}

    async def get(self, job: ResourceName, step: int, *, state: bool) -> checkpoint_pb2.Checkpoint:
        """Return a checkpoint with the files to download. Raises what GetCheckpoint documents."""
        found = await self._found(job, step)
        for file in await self._files(job, step, state=state):
            found.files.append(await self._describe(found.sha256, file, step))
        return found

    async def update(
        self, job: ResourceName, step: int, request: checkpoint_pb2.UpdateCheckpointRequest, key: RequestKey
    ) -> checkpoint_pb2.Checkpoint:
        """Pin or unpin a checkpoint, or set the time at which it goes, once for each request.

        Raises NotFound CHECKPOINT_NOT_FOUND, AlreadyExists REQUEST_ID_REUSED.
        """
        now, folder = self._log.clock(), self._layout.checkpoints(job.id)

        def change() -> None:
            with full_disk_refused(), checkpoint.locked(folder):
                kept = checkpoint.read_kept(folder)
                if _answer(kept, key) is not None:
                    return
                if step not in whole_steps(folder):
                    raise _not_found(job, step, folder)
                if request.HasField("pinned"):
                    (kept.pinned.add if request.pinned else kept.pinned.discard)(step)
                if request.HasField("time_to_live"):
                    kept.expire_times.pop(step, None)
                    if micros := request.time_to_live.ToMicroseconds():
                        kept.expire_times[step] = now + micros
                _note(kept, key)
                checkpoint.write_kept(folder, kept)

        if await self._log.store.read(partial(request_ids.find, key=key)) is None:
            await self._found(job, step)
            await self._copies.ensure(folder / checkpoint.folder_name(step))
            await asyncio.to_thread(change)
            fail_point("keeping.after_change")
            await self._log.store.write(partial(request_ids.claim, key=key, resource=job.id, now=now))
        return await self._found(job, step)

    async def delete(self, job: ResourceName, step: int, key: RequestKey) -> int:
        """Delete a checkpoint, once for each request; return the bytes of its files.

        Raises NotFound CHECKPOINT_NOT_FOUND, FailedPrecondition (CHECKPOINT_PINNED, JOB_IN_USE, JOB_NOT_ENDED),
        AlreadyExists REQUEST_ID_REUSED.
        """
        answered = await self._log.store.read(partial(request_ids.find, key=key))
        if answered is not None:
            return checkpoint_pb2.DeleteCheckpointResponse.FromString(answered.reply).freed_bytes
        freed = await self.discard(job, step, key)
        fail_point("keeping.after_removal")
        reply = checkpoint_pb2.DeleteCheckpointResponse(freed_bytes=freed).SerializeToString()
        now = self._log.clock()
        await self._log.store.write(partial(request_ids.claim, key=key, resource=job.id, now=now, reply=reply))
        return freed

    async def discard(self, job: ResourceName, step: int, key: RequestKey | None = None) -> int:
        """Delete a checkpoint that nobody needs, then its copy; return the bytes of its files.

        Raises as `delete`, and Unavailable OBJECT_STORE_UNAVAILABLE: then the copy is left, and asked again it goes.
        """
        folder = self._layout.checkpoints(job.id)
        place = folder / checkpoint.folder_name(step)
        await self._copies.catch_up(folder)
        on_disk, copy = step in await asyncio.to_thread(checkpoint.steps, folder), self._copies.find(place)
        if not on_disk and copy is None:
            answered = _answer(await asyncio.to_thread(checkpoint.read_kept, folder), key) if key is not None else None
            if answered is None:
                raise _not_found(job, step, folder)
            return checkpoint_pb2.DeleteCheckpointResponse.FromString(answered).freed_bytes
        await self._log.store.read(partial(self._require_unused, job=job, step=step))

        def work() -> int:
            with full_disk_refused(), checkpoint.locked(folder):
                kept = checkpoint.read_kept(folder)
                if step in kept.pinned:
                    raise pinned(f"{job}/checkpoints/{step}")
                if step not in checkpoint.steps(folder):
                    raise _not_found(job, step, folder)
                freed = folder_bytes(folder / checkpoint.folder_name(step))
                if key is not None and key.request_id:
                    # Before the removal: of one that is noted and there, nothing has happened, and it is judged anew.
                    _note(kept, key, checkpoint_pb2.DeleteCheckpointResponse(freed_bytes=freed).SerializeToString())
                    checkpoint.write_kept(folder, kept)
                fail_point("keeping.before_removal")
                trash = checkpoint.discard(folder, step)
            if trash is None:
                raise _not_found(job, step, folder)
            remove_tree(trash)
            return freed

        if on_disk:
            freed = await asyncio.to_thread(work)
        elif step in (await asyncio.to_thread(checkpoint.read_kept, folder)).pinned:
            raise pinned(f"{job}/checkpoints/{step}")
        else:
            freed = copy.size if copy is not None else 0
        await self._copies.remove(place)
        get_logger().info("checkpoint_removed", job=job.id, step=step, freed_bytes=freed)
        return freed

    async def read(
        self, job: ResourceName, step: int, path: str, *, offset: int, limit: int
    ) -> AsyncIterator[artifact_pb2.DownloadArtifactResponse]:
        """Read a file of a checkpoint from `offset`, `limit` bytes of it (0: to the end).

        Raises what DownloadArtifact documents.
        """
        found = await self._found(job, step)
        file = next((each for each in await self._files(job, step, state=True) if each.path == path), None)
        if file is None:
            text = f"The checkpoint has no file {path[:80]!r}; GetCheckpoint names those that it has."
            raise NotFound("FILE_NOT_FOUND", text)
        described = await self._describe(found.sha256, file, step)
        size = described.size_bytes
        if offset > size:
            text = f"offset {offset} is beyond the file's {size} bytes."
            raise OutOfRange("OFFSET_BEYOND_END", text, metadata={"size_bytes": str(size)})
        end = min(size, offset + limit) if limit else size
        yield artifact_pb2.DownloadArtifactResponse(offset=offset, file=described)
        while offset < end:
            try:
                chunk = await asyncio.to_thread(file.read, offset, min(CHUNK_BYTES, end - offset))
            except OSError:
                chunk = b""
            if not chunk:
                raise _not_found(job, step, self._layout.checkpoints(job.id))
            yield artifact_pb2.DownloadArtifactResponse(chunk=chunk, offset=offset)
            offset += len(chunk)

    async def _found(self, job: ResourceName, step: int) -> checkpoint_pb2.Checkpoint:
        """Return a checkpoint that is whole, as it is listed. Raises NotFound CHECKPOINT_NOT_FOUND."""
        found = await self._checkpoints.page(job.id, after=step - 1, limit=1, deleted=False)
        if not found or found[0].step != step:
            raise _not_found(job, step, self._layout.checkpoints(job.id))
        return found[0]

    async def _files(self, job: ResourceName, step: int, *, state: bool) -> list[PortableFile]:
        folder = self._layout.checkpoints(job.id)
        place = folder / checkpoint.folder_name(step)
        await self._copies.ensure(place)
        try:
            return await asyncio.to_thread(partial(portable_files, place, state=state))
        except WeightsError as error:
            raise _not_found(job, step, folder) from error

    async def _describe(self, sha256: str, file: PortableFile, step: int) -> artifact_pb2.ArtifactFile:
        known = self._described.get((sha256, file.path))
        if known is None:
            try:
                known = await asyncio.to_thread(file.describe)
            except OSError as error:
                raise NotFound("CHECKPOINT_NOT_FOUND", f"The checkpoint of step {step} was just deleted.") from error
            while len(self._described) >= HASHES_KEPT:
                del self._described[next(iter(self._described))]
            self._described[sha256, file.path] = known
        return known

    def _require_unused(self, connection: Connection, *, job: ResourceName, step: int) -> None:
        """Raise FailedPrecondition unless no live job needs a checkpoint, nor its own job to go on."""
        name = f"{job}/checkpoints/{step}"
        users.require_unused([use for use in users.uses(connection) if use.used == name])
        row = jobs.load_hot(connection, job.id)
        if row is None or row.state in states.TERMINAL:
            return
        folder = self._layout.checkpoints(job.id)
        snapshot, whole = job_pb2.Job.FromString(row.snapshot), [*whole_steps(folder), *self._copies.steps(folder)]
        if step in (max(whole, default=-1), snapshot.best_checkpoint_step):
            text = f"{name} is the newest or the best of a job that may go on from it; wait until it has ended"
            raise FailedPrecondition("JOB_NOT_ENDED", f"{text}.", violations=[(name, text, "JOB_NOT_ENDED")])


def _answer(kept: checkpoint.Kept, key: RequestKey) -> bytes | None:
    """Return the reply to a request whose change a folder has, and which may be missing in the store.

    None for a new one. Raises AlreadyExists REQUEST_ID_REUSED.
    """
    found = kept.requests.get(key.request_id) if key.request_id else None
    if found is None:
        return None
    if found[0] != _about(key):
        raise request_ids.reused(key)
    return found[1]


def _note(kept: checkpoint.Kept, key: RequestKey, reply: bytes = b"") -> None:
    """Note a request beside its change, so that one replacement of a file makes both."""
    if key.request_id:
        kept.requests[key.request_id] = _about(key), reply
        kept.requests = dict(list(kept.requests.items())[-REQUESTS_KEPT:])


def _about(key: RequestKey) -> str:
    return f"{key.method}/{key.body_hash}"


def require_unpinned(layout: Layout, job: ResourceName) -> None:
    """Raise FailedPrecondition CHECKPOINT_PINNED where a checkpoint of a job is pinned."""
    folder = layout.checkpoints(job.id)
    for step in sorted(pinned_steps(folder)):
        raise pinned(f"{job}/checkpoints/{step}")


def pinned_steps(folder: Path) -> set[int]:
    """Return the steps of pinned checkpoints that are still there."""
    return checkpoint.read_kept(folder).pinned & set(checkpoint.steps(folder))


def pinned(name: str) -> FailedPrecondition:
    """Build the error for a pinned checkpoint that is to be deleted."""
    text = f"{name} is pinned; unpin it first"
    return FailedPrecondition("CHECKPOINT_PINNED", f"{text}.", violations=[(name, text, "CHECKPOINT_PINNED")])


def _not_found(job: ResourceName, step: int, folder: Path) -> NotFound:
    there = ", ".join(map(str, whole_steps(folder))) or "none"
    text = f"Job {job.id} has no checkpoint of step {step}; those on disk are of steps: {there}."
    return NotFound("CHECKPOINT_NOT_FOUND", text, metadata={"steps": there})
