# SPDX-License-Identifier: Apache-2.0
"""The access file: read again when it changes, replaced as a whole, and nobody gets in while it cannot be read.

`access.json` lies in a folder of its own that every service of an installation sees. A writer holds the lock on
`access.lock` beside it, writes a new file of mode 0600 and renames it over the old one; a reader looks at the file's
times, size and inode at each call, which takes microseconds. So a token that is revoked is refused by the next call.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from finetree_runtime.errors import Unavailable
from finetree_runtime.server.access.table import (
    AccessFileError,
    AccessTable,
    Granted,
    TokenRow,
    parse_table,
    table_text,
)
from finetree_runtime.server.logging import get_logger

NAME = "access.json"
LOCK = "access.lock"
MAX_BYTES = 16 * 1024 * 1024
"""Largest access file: 40,000 tokens."""
SETTLED_NANOSECONDS = 100_000_000
"""Age from which a file is read once; the clock of file systems ticks every 1 to 10 ms."""
RETRY_SECONDS = 5.0
"""What a client is told to wait while the file cannot be read."""


class AccessFile:
    """The access file in a folder, as a service reads it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._stamp: object = None
        self._table: AccessTable | None = None
        self._problem = ""

    def table(self) -> AccessTable:
        """Return the content of the file as it is now.

        Raises:
            Unavailable: ACCESS_UNAVAILABLE: it is missing, damaged, or others may write it. The log says which.
        """
        stamp = self._found()
        if stamp != self._stamp:
            self._read(stamp)
        if self._table is None:
            text = "this server cannot read who may call it, and takes no call until it can: its log says why"
            raise Unavailable("ACCESS_UNAVAILABLE", text, retry_delay=RETRY_SECONDS)
        return self._table

    def token(self, sha256: str) -> TokenRow | None:
        """Return the token of a hash. Raises as `table` does."""
        return self.table().token(sha256)

    def grants_of(self, kind: str, names: Iterable[str]) -> Granted | None:
        """Return what principals of a kind ("oidc-subject", "oidc-group", "certificate") were granted together.

        Raises as `table` does.
        """
        return self.table().grants_of(kind, names)

    @property
    def problem(self) -> str:
        """Why the file cannot be used; empty while it can."""
        with contextlib.suppress(Unavailable):
            self.table()
        return self._problem

    def _found(self) -> object:
        try:
            found = self._path.stat()
        except OSError as error:
            return error.errno
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode

    def _read(self, stamp: object) -> None:
        try:
            self._table, self._problem = read_table(self._path), ""
        except AccessFileError as error:
            self._table, self._problem = None, str(error)
            get_logger().error("access_file_unusable", problem=str(error), file=NAME)
        self._stamp = stamp if _settled(stamp) else None


def _settled(stamp: object) -> bool:
    """Whether a later change must show in the stamp: within one tick of the clock, a freed inode can come again."""
    return not isinstance(stamp, tuple) or time.time_ns() - stamp[1] > SETTLED_NANOSECONDS


def read_table(path: Path) -> AccessTable:
    """Read an access file. Raises AccessFileError."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o022:
                raise AccessFileError("others than its owner may write it: chmod 600")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise AccessFileError(f"it cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise AccessFileError(f"it is larger than {MAX_BYTES} bytes")
    try:
        return parse_table(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise AccessFileError("it is not UTF-8") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of writers while the block runs; the folder is made if it does not exist. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _give_to_the_folders_owner(handle, folder)
        yield
    finally:
        os.close(handle)


def read_or_empty(folder: Path) -> AccessTable:
    """Read the table of a folder; where it has no file yet, an empty one. Raises AccessFileError."""
    path = folder / NAME
    return read_table(path) if path.exists() else AccessTable()


def replace(folder: Path, table: AccessTable) -> None:
    """Replace the file in one step, within `locked`; a crash leaves the old one or the new one. Raises OSError."""
    handle, scratch = tempfile.mkstemp(dir=folder, prefix=".access-", suffix=".json")  # of mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(table_text(table))
            file.flush()
            _give_to_the_folders_owner(file.fileno(), folder)
            os.fsync(file.fileno())
        Path(scratch).replace(folder / NAME)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _give_to_the_folders_owner(handle: int, folder: Path) -> None:
    """Let the services go on reading what root has written: the folder is their user's."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)
