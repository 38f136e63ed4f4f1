# SPDX-License-Identifier: Apache-2.0
"""The files of an audit log: appended to, never written again, and followed by another one at a size."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetree_runtime.server.audit.chain import TORN, Position, position_of, seal

PATTERN = "audit-*.jsonl"
"""Names of the files; the number in one is that of its first record."""
LOCK = "audit.lock"
"""File in the folder that the service which writes there has locked: two would fork the chain."""
_WINDOW = 64 * 1024
"""Bytes from the end of a file that are read first to find its last record; a record has a few hundred."""


class FolderInUseError(OSError):
    """Another service writes in the folder."""


class AuditFiles:
    """Appends records to the newest file of a folder. All methods block: call them on one thread.

    After an OSError of `append` or `sync` nothing is known of what the file has: the next call looks at it anew, marks
    what was cut off, and goes on from its last record.
    """

    def __init__(self, folder: Path, file_bytes: int, *, wait: bool = False) -> None:
        """Make the folder and lock it, which can `wait` for whoever has it locked.

        Raises OSError, FolderInUseError.
        """
        self._folder, self._file_bytes = folder, file_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            os.close(self._lock)
            raise FolderInUseError(error.errno, "another service writes there") from None
        self._descriptor = -1
        self._size = 0
        self._at = Position()
        self._attempted: list[Position] = []

    def open(self) -> int:
        """Open the newest file if none is open, and return how many records of the last append it has after all.

        Raises OSError.
        """
        if self._descriptor >= 0:
            return 0
        files = sorted(self._folder.glob(PATTERN))
        newest = files[-1] if files else self._folder / _name(1)
        self._at, torn = _end(files)
        whole = position_of(torn)
        unended = whole is not None and whole.seq == self._at.seq + 1  # its line end alone is missing
        if whole is not None and unended:
            self._at = whole
        survived = sum(position.seq <= self._at.seq for position in self._attempted)
        self._attempted = []
        self._open(newest)
        if unended:
            self._write(b"\n")
        elif torn:
            self._mark(torn)
        return survived

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write records behind the last one, in a new file where this one would grow too large. Raises OSError."""
        self.open()
        lines, at = [], self._at
        for record in records:
            line, at = seal(record, at)
            lines.append(line)
            self._attempted.append(at)
        size = sum(map(len, lines))
        if self._size and self._size + size > self._file_bytes:
            self._follow()
        self._write(b"".join(lines))
        self._at, self._attempted = at, []

    def give_up(self) -> None:
        """Forget the records of an append that failed: they are not written again."""
        self._attempted = []

    def sync(self) -> None:
        """Have the system bring to the disk what was appended. Raises OSError."""
        if self._descriptor < 0:
            raise OSError("the audit log is not open")
        try:
            os.fsync(self._descriptor)
        except OSError:
            self._forget()
            raise

    def close(self) -> None:
        """Close the file and give the folder back."""
        self._forget()
        os.close(self._lock)

    def _mark(self, torn: bytes) -> None:
        """Chain the bytes that were cut off: nothing of a log is ever removed, what does not belong to it is named."""
        ending = b"" if torn.endswith(b"\n") else b"\n"
        digest = hashlib.sha256(torn + ending).hexdigest()
        line, at = seal({"event": TORN, "torn_bytes": len(torn + ending), "torn_sha256": digest}, self._at)
        self._write(ending + line)
        self._at = at

    def _follow(self) -> None:
        """Go on in a new file. The last one is on the disk before: a chain has no hole in its middle."""
        self.sync()
        os.close(self._descriptor)
        self._descriptor = -1
        self._open(self._folder / _name(self._at.seq + 1))

    def _open(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:
                written = os.write(self._descriptor, view)
                self._size += written
                view = view[written:]
        except OSError:
            self._forget()
            raise

    def _forget(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def _name(seq: int) -> str:
    return f"audit-{seq:012d}.jsonl"


def _end(files: Sequence[Path]) -> tuple[Position, bytes]:
    """Find the last record of a log, and the bytes that follow it in the newest file."""
    torn = b""
    for number, file in enumerate(reversed(files)):
        position, rest = _end_of(file)
        if number == 0:
            torn = rest
        if position is not None:
            return position, torn
    return Position(), torn


def _end_of(file: Path) -> tuple[Position | None, bytes]:
    """Find the last record of a file, and the bytes that follow it; all bytes where it has no record."""
    size, window = file.stat().st_size, _WINDOW
    while True:
        start = max(0, size - window)
        with file.open("rb") as stream:
            stream.seek(start)
            content = stream.read()
        end = len(content)
        while (line_end := content.rfind(b"\n", 0, end)) >= 0:
            begin = content.rfind(b"\n", 0, line_end) + 1
            position = position_of(content[begin:line_end])
            if position is not None:
                return position, content[line_end + 1 :]
            end = line_end
        if start == 0:
            return None, content
        window *= 8
