# SPDX-License-Identifier: Apache-2.0
"""Artifacts of jobs: listed from the store, read from the folder of the attempt that made them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2
from finetree_data.confinement.own_files import hash_own, open_own
from finetree_runtime.errors import FailedPrecondition, NotFound, OutOfRange

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.objects.links import Links
from finetree_trainer.store import artifacts

CHUNK_BYTES = 256 * 1024
"""Bytes of a message: large enough that messages cost little, small enough that a cut loses little."""

KNOWN_WHOLE = 10_000
"""Files of which it is remembered that they are whole; then they are forgotten and hashed again."""


class Artifacts:
    """Lists and reads artifacts."""

    def __init__(self, log: EventLog, layout: Layout, copies: Copies, links: Links) -> None:
        self._log, self._layout, self._copies, self._links = log, layout, copies, links
        self._whole: dict[Path, tuple[int, ...]] = {}

    async def page(self, uid: str, *, after: str, limit: int) -> list[tuple[str, artifact_pb2.Artifact]]:
        """List artifacts of a job by their short names, after `after`. Raises NotFound JOB_NOT_FOUND."""
        await self._log.row(uid)
        found = await self._log.store.read(lambda connection: artifacts.page(connection, uid, after=after, limit=limit))
        return [(name, artifact_pb2.Artifact.FromString(record)) for name, record in found]

    async def read(
        self, uid: str, artifact: str, path: str, *, offset: int, limit: int
    ) -> AsyncIterator[artifact_pb2.DownloadArtifactResponse]:
        """Read a file of an artifact from `offset`, `limit` bytes of it (0: to the end).

        Only files that the artifact's manifest lists can be read, and of those only whole ones. Raises NotFound
        ARTIFACT_NOT_FOUND or FILE_NOT_FOUND, OutOfRange OFFSET_BEYOND_END, FailedPrecondition (ARTIFACT_DAMAGED,
        OBJECT_DAMAGED), Unavailable OBJECT_STORE_UNAVAILABLE.
        """
        folder, entry = await self._entry(uid, artifact, path)
        file = folder / path
        await self._copies.ensure(folder)
        if not await asyncio.to_thread(_is_inside, folder, file):
            raise _no_file(path)
        if offset > entry.size_bytes:
            text = f"offset {offset} is beyond the file's {entry.size_bytes} bytes."
            raise OutOfRange("OFFSET_BEYOND_END", text, metadata={"size_bytes": str(entry.size_bytes)})
        left = min(limit or entry.size_bytes, entry.size_bytes - offset)
        yield artifact_pb2.DownloadArtifactResponse(offset=offset, file=entry)
        await self._require_whole(file, entry)
        while left > 0:
            chunk = await asyncio.to_thread(_read, file, offset, min(CHUNK_BYTES, left))
            if not chunk:
                raise NotFound("FILE_NOT_FOUND", f"The file {path[:80]!r} was cut short on the server.")
            yield artifact_pb2.DownloadArtifactResponse(chunk=chunk, offset=offset)
            offset, left = offset + len(chunk), left - len(chunk)

    async def link(
        self, uid: str, artifact: str, path: str, *, seconds: int | None
    ) -> artifact_pb2.GetArtifactLinkResponse:
        """Sign a link to a file of an artifact, for so many seconds at most. Raises what GetArtifactLink documents."""
        folder, entry = await self._entry(uid, artifact, path)
        return await self._links.give(folder, entry, asked=seconds)

    async def _entry(self, uid: str, artifact: str, path: str) -> tuple[Path, artifact_pb2.ArtifactFile]:
        """The folder of an artifact, and a file of it by its manifest. Raises NotFound."""
        record = await self._log.store.read(lambda connection: artifacts.load(connection, uid, artifact))
        if record is None:
            raise NotFound(
                "ARTIFACT_NOT_FOUND",
                f"The job has no artifact {artifact!r}; list its artifacts to see those that it has.",
            )
        described = artifact_pb2.Artifact.FromString(record)
        entry = next((file for file in described.files if file.path == path), None)
        if entry is None:
            raise _no_file(path)
        return self._layout.artifacts(uid, described.attempt) / artifact, entry

    async def _require_whole(self, file: Path, entry: artifact_pb2.ArtifactFile) -> None:
        """Raise FailedPrecondition ARTIFACT_DAMAGED for a file that is not what its artifact's manifest says.

        A file is hashed once in a run of the service and again when its folder says that it has changed; a client that
        goes on with a download, or reads by ranges, costs no second reading.
        """
        if not entry.sha256:
            return
        seen = await asyncio.to_thread(_identity, file)
        if self._whole.get(file) == seen:
            return
        if await asyncio.to_thread(hash_own, file) != entry.sha256:
            text = f"The file {entry.path[:80]!r} is damaged on the trainer's disk; restore it, or run the job again."
            raise FailedPrecondition("ARTIFACT_DAMAGED", text, metadata={"path": entry.path[:200]})
        if len(self._whole) >= KNOWN_WHOLE:
            self._whole.clear()
        self._whole[file] = seen


def _no_file(path: str) -> NotFound:
    text = f"The artifact has no file {path[:80]!r}; its `files` names those that it has."
    return NotFound("FILE_NOT_FOUND", text)


def _identity(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_inside(folder: Path, file: Path) -> bool:
    return file.is_file() and file.resolve().is_relative_to(folder.resolve())


def _read(file: Path, offset: int, count: int) -> bytes:
    with open_own(file) as stream:
        stream.seek(offset)
        return stream.read(count)
