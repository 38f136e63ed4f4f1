# SPDX-License-Identifier: Apache-2.0
"""Downloads: files written beside their place, checked, and renamed. Blocking; the async client uses threads."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2

from finetree.errors import Internal, Unavailable

Progress = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all)."""


def artifact_folder(directory: Path, artifact: artifact_pb2.Artifact) -> Path:
    """Folder of an artifact under the caller's directory; of a checkpoint the directory itself.

    Raises:
        Internal: UNSAFE_PATH.
    """
    if "/checkpoints/" in artifact.name:
        return directory
    return inside(directory, artifact.name.rpartition("/")[2])


def inside(folder: Path, path: str) -> Path:
    """Resolve a path that the server names under a local folder.

    Raises:
        Internal: UNSAFE_PATH: it would leave the folder, in itself or through a link.
    """
    parts = PurePosixPath(path).parts
    plain = bool(parts) and not PurePosixPath(path).is_absolute() and not any(p == ".." for p in parts)
    # A backslash or a colon is harmless here and a way out on Windows.
    plain = plain and not any(char in path for char in "\\:\0")
    target = folder.joinpath(*parts) if plain else folder
    if not plain or not target.resolve().is_relative_to(folder.resolve()):
        raise Internal(f"the server names a file {path!r}, which would leave {folder}", reason="UNSAFE_PATH")
    return target


class TransferProgress:
    """Bytes of all files of a transfer, reported to the caller as they grow."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress

    def add(self, count: int) -> None:
        """Count more bytes."""
        self._done += count
        if self._on_progress is not None and count:
            self._on_progress(self._done, self._total)


class Download:
    """A file that is downloaded: written beside its place, checked, then renamed.

    Attributes:
        offset: position of the next byte.
        done: the file is in its place.
    """

    def __init__(
        self, artifact: str, file: artifact_pb2.ArtifactFile, *, folder: Path, progress: TransferProgress
    ) -> None:
        self.done = False
        target = inside(folder, file.path)
        self._artifact, self._target, self._file, self._progress = artifact, target, file, progress
        self._part = target.with_name(f".{target.name}.{file.sha256[:16]}.part")
        self._hash = hashlib.sha256()
        self.offset = self._reported = 0
        if target.is_file() and _sha256(target) == file.sha256:
            self.done, self.offset = True, file.size_bytes
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._part.is_file() and self._part.stat().st_size <= file.size_bytes:
            self._hash = _hashed(self._part)
            self.offset = self._part.stat().st_size
        self._out = self._part.open("ab" if self.offset else "wb")

    def request(self) -> artifact_pb2.DownloadArtifactRequest:
        """Build the request of what is missing."""
        return artifact_pb2.DownloadArtifactRequest(name=self._artifact, path=self._file.path, offset=self.offset)

    def link_request(self) -> artifact_pb2.GetArtifactLinkRequest:
        """Build the request of a link to the file."""
        return artifact_pb2.GetArtifactLinkRequest(name=self._artifact, path=self._file.path)

    def write(self, offset: int, chunk: bytes) -> None:
        """Write bytes that belong at `offset`.

        Raises:
            Internal: ARTIFACT_CORRUPT: they belong elsewhere, or there are too many.
        """
        if offset != self.offset or offset + len(chunk) > self._file.size_bytes:
            raise self._corrupt(f"bytes {offset} to {offset + len(chunk)} came where {self.offset} was expected")
        self._out.write(chunk)
        self._hash.update(chunk)
        self.offset += len(chunk)

    def report(self) -> None:
        """Report the bytes since the last report; apart from `write`, which may run in another thread."""
        self._progress.add(self.offset - self._reported)
        self._reported = self.offset

    @property
    def complete(self) -> bool:
        """Whether every byte has arrived."""
        return self.offset == self._file.size_bytes

    @property
    def missing(self) -> int:
        """Bytes that have not arrived."""
        return int(self._file.size_bytes) - self.offset

    def cut(self) -> Unavailable:
        """Make the error for a stream that ended too early."""
        return Unavailable(f"the stream of {self._file.path} ended at byte {self.offset}", reason="STREAM_ENDED")

    def finish(self) -> None:
        """Check the hash and rename the file.

        Raises:
            Internal: ARTIFACT_CORRUPT; what was written is deleted, so that the next try begins anew.
        """
        self.close()
        if self._hash.hexdigest() != self._file.sha256:
            self._part.unlink(missing_ok=True)
            raise self._corrupt("its SHA-256 is not the announced one")
        self._part.replace(self._target)
        self.done = True

    def close(self) -> None:
        """Release the file; what was written stays, for a later try."""
        if not self.done:
            self._out.close()

    def _corrupt(self, why: str) -> Internal:
        return Internal(f"{self._file.path} arrived damaged: {why}; download again", reason="ARTIFACT_CORRUPT")


def _hashed(path: Path) -> Any:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        shutil.copyfileobj(file, _Hashing(digest), 1024 * 1024)
    return digest


def _sha256(path: Path) -> str:
    return str(_hashed(path).hexdigest())


class _Hashing:
    def __init__(self, digest: Any) -> None:
        self.write = digest.update
