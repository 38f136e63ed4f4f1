# SPDX-License-Identifier: Apache-2.0
"""Bytes on this side: what is uploaded, and where downloads are written. Blocking; the async client uses threads."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

from finetree_api.trainer.v1 import artifact_pb2

from finetree.errors import Internal, InvalidArgument, Unavailable, Violation

Progress = Callable[[int, int], None]
Source = str | Path | bytes | Iterable[Mapping[str, Any]]
# Well below the server's cap for a message; more per message is not faster on loopback.
PIECE = 64 * 1024
IN_MEMORY = 8 * 1024 * 1024
BinaryFile = io.BytesIO | io.BufferedReader | tempfile.SpooledTemporaryFile[bytes]


class Content:
    """What is uploaded: size in bytes, SHA-256, and reading from anywhere. Use as a context."""

    def __init__(self, source: Source) -> None:
        self._file = _opened(source)
        self.sha256 = hashlib.file_digest(self._file, "sha256").hexdigest()
        self.size = self._file.seek(0, io.SEEK_END)
        if not self.size:
            self._file.close()
            text = "it is empty; a dataset needs at least one row"
            raise InvalidArgument(f"source: {text}", reason="EMPTY_DATASET", violations=(Violation("source", text),))

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`."""
        self._file.seek(offset)
        return self._file.read(count)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(source: Source) -> BinaryFile:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str | Path):
        try:
            return Path(source).open("rb")
        except OSError as error:
            text = f"cannot read {str(source)!r}: {error.strerror}"
            raise InvalidArgument(
                f"source: {text}", reason="UNREADABLE_SOURCE", violations=(Violation("source", text),)
            ) from error
    return _spooled(source)


def _spooled(rows: Iterable[Mapping[str, Any]]) -> BinaryFile:
    file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - Content closes it
    for number, row in enumerate(rows, 1):
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            file.write(line.encode("utf-8") + b"\n")
        except (TypeError, ValueError) as error:
            file.close()
            text = f"row {number} is not JSON: {error}"
            raise InvalidArgument(
                f"source: {text}", reason="MALFORMED_ROW", violations=(Violation(f"source[{number - 1}]", text),)
            ) from error
    file.seek(0)
    return file


def artifact_folder(directory: Path, artifact: artifact_pb2.Artifact) -> Path:
    """Local folder of an artifact.

    Raises:
        Internal: UNSAFE_PATH.
    """
    return inside(directory, artifact.name.rpartition("/")[2])


def inside(folder: Path, path: str) -> Path:
    """A path of the server's under a folder of ours.

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


class Tally:
    """Bytes over all files of a transfer, told to the caller as they grow."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self._done, self._total, self._tell = 0, total, on_progress

    def add(self, count: int) -> None:
        """So many bytes more."""
        self._done += count
        if self._tell is not None and count:
            self._tell(self._done, self._total)


class Download:
    """A file on its way: written beside its place, checked, then renamed. `offset` is where it goes on."""

    def __init__(self, artifact: str, file: artifact_pb2.ArtifactFile, folder: Path, tally: Tally) -> None:
        self.done = False
        target = inside(folder, file.path)
        self._artifact, self._target, self._file, self._tally = artifact, target, file, tally
        self._part = target.with_name(f".{target.name}.{file.sha256[:16]}.part")
        self._hash = hashlib.sha256()
        self.offset = self._told = 0
        if target.is_file() and _sha256(target) == file.sha256:
            self.done, self.offset = True, file.size_bytes
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._part.is_file() and self._part.stat().st_size <= file.size_bytes:
            self._hash = _hashed(self._part)
            self.offset = self._part.stat().st_size
        self._out = self._part.open("ab" if self.offset else "wb")

    def request(self) -> artifact_pb2.DownloadArtifactRequest:
        """What to ask for now."""
        return artifact_pb2.DownloadArtifactRequest(name=self._artifact, path=self._file.path, offset=self.offset)

    def write(self, offset: int, chunk: bytes) -> None:
        """Take in bytes that belong at `offset`.

        Raises:
            Internal: ARTIFACT_CORRUPT: they belong elsewhere, or there are too many.
        """
        if offset != self.offset or offset + len(chunk) > self._file.size_bytes:
            raise self._corrupt(f"bytes {offset} to {offset + len(chunk)} came where {self.offset} was expected")
        self._out.write(chunk)
        self._hash.update(chunk)
        self.offset += len(chunk)

    def tell(self) -> None:
        """Report what has come since the last time; apart from `write`, so that threads need not call the caller."""
        self._tally.add(self.offset - self._told)
        self._told = self.offset

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.offset == self._file.size_bytes

    def cut(self) -> Unavailable:
        """The error for a stream that ended too early."""
        return Unavailable(f"the stream of {self._file.path} ended at byte {self.offset}", reason="STREAM_ENDED")

    def finish(self) -> None:
        """Check the hash and give the file its name.

        Raises:
            Internal: ARTIFACT_CORRUPT; what was written is gone, so that the next try begins anew.
        """
        self.close()
        if self._hash.hexdigest() != self._file.sha256:
            self._part.unlink(missing_ok=True)
            raise self._corrupt("its SHA-256 is not the announced one")
        self._part.replace(self._target)
        self.done = True

    def close(self) -> None:
        """Release the file; what is there stays, for a later try."""
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
