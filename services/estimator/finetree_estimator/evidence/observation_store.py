# SPDX-License-Identifier: Apache-2.0
"""Keeps observations on disk: one SQLite file, written in transactions that are durable when they return.

Only one server may write a folder; a lock says whose it is. A program that is killed in the middle of a write, or a
file that ends in the middle of one, loses that write and nothing else (SQLite's write-ahead log).
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import AlreadyExists, ResourceExhausted, Unavailable

FILE_NAME = "observations.db"
LOCK_NAME = "service.lock"
PER_DEVICE = 2000
"""Newest observations of a device that are kept."""
IN_ALL = 10_000
"""Newest observations that are kept: a caller who invents devices fills no disk."""
REQUEST_IDS = 100_000
"""Newest request ids that are remembered."""
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE observations (
  job TEXT NOT NULL, attempt INTEGER NOT NULL, device TEXT NOT NULL, end_time INTEGER NOT NULL, record BLOB NOT NULL,
  basis TEXT NOT NULL, point TEXT NOT NULL, PRIMARY KEY (job, attempt));
CREATE INDEX observations_by_device ON observations (device, end_time, job, attempt);
CREATE TABLE request_ids (number INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE,
  body_hash TEXT NOT NULL, removed INTEGER NOT NULL);
"""
_INSERT = "INSERT OR IGNORE INTO observations VALUES (?, ?, ?, ?, ?, ?, ?)"
_OLD = """
SELECT job, attempt FROM observations WHERE ? IN ('', device)
ORDER BY end_time DESC, job DESC, attempt DESC LIMIT -1 OFFSET ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObservation:
    """An observation as it came, and the point that was made of it."""

    job: str
    attempt: int
    device: str
    end_time: int
    """Microseconds since 1970."""
    record: bytes
    """The serialized message."""
    basis: str
    """What the point's prediction was computed with."""
    point: str
    """The point as JSON."""

    @property
    def key(self) -> tuple[str, int]:
        """What identifies it."""
        return self.job, self.attempt


@dataclass(frozen=True, slots=True)
class Removal:
    """What a call removed, or what the earlier call with its request id had removed."""

    removed: int
    """Observations."""
    repeated: bool = False
    """Whether nothing was removed now."""


class Observations:
    """The store of one server. Its methods block until the disk has what they write; one at a time may run."""

    def __init__(self, folder: Path) -> None:
        """Open or make the store. Raises SettingsError where that cannot be."""
        self._lock = _claim(folder)
        try:
            self._database = _open(folder / FILE_NAME)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the file and give the folder free."""
        self._database.close()
        os.close(self._lock)

    def rows(self) -> list[StoredObservation]:
        """Everything that is kept, oldest first."""
        return _rows(self._database)

    def add(self, row: StoredObservation, request_id: str, body_hash: str) -> tuple[bool, list[tuple[str, int]]]:
        """Keep an observation; whether it was new, and the keys of old ones that had to go.

        Raises AlreadyExists REQUEST_ID_REUSED, ResourceExhausted DISK_FULL, Unavailable STORE_UNAVAILABLE; nothing is
        kept then.
        """
        with self._transaction() as database:
            if request_id and _earlier_answer(database, request_id, body_hash) is not None:
                return False, []
            if request_id:
                _remember(database, request_id, body_hash)
            new = database.execute(_INSERT, _values(row)).rowcount == 1
            return new, _prune(database, row.device) if new else []

    def replace_points(self, rows: list[StoredObservation]) -> None:
        """Keep other points of observations that are there."""
        with self._transaction() as database:
            text = "UPDATE observations SET basis = ?, point = ?, device = ? WHERE job = ? AND attempt = ?"
            database.executemany(text, [(row.basis, row.point, row.device, row.job, row.attempt) for row in rows])

    def forget(self, device: str, request_id: str = "", body_hash: str = "") -> Removal:
        """Remove the observations of a device, or all for "". Raises what `add` raises.

        Their request ids stay: a repetition that is still under way must not bring one back.
        """
        with self._transaction() as database:
            if request_id and (removed := _earlier_answer(database, request_id, body_hash)) is not None:
                return Removal(removed, repeated=True)
            removed = database.execute("DELETE FROM observations WHERE ? IN ('', device)", (device,)).rowcount
            if request_id:
                _remember(database, request_id, body_hash, removed=removed)
            return Removal(removed)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database
            self._database.execute("COMMIT")
        except BaseException as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _refusal(error) from error
            raise


def read_only(folder: Path) -> list[StoredObservation]:
    """What the store of a folder holds, for a program that does not serve; nothing where there is none.

    Raises SettingsError for a file that cannot be read.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return []
    with closing(_open(file)) as database:
        return _rows(database)


def _claim(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(error.strerror or str(error)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        text = "state_dir: another estimator uses this folder; stop it first"
        raise SettingsError("STATE_DIR_IN_USE", text) from None
    return lock


def _open(file: Path) -> sqlite3.Connection:
    try:
        # Calls come from a pool of threads, never two at once.
        database = sqlite3.connect(file, isolation_level=None, timeout=5.0, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            database.execute(f"PRAGMA {pragma}")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        file.chmod(0o600)
    except (sqlite3.Error, OSError) as error:
        raise _unusable(str(error)) from error
    if version > SCHEMA_VERSION:
        database.close()
        text = f"state_dir: written by a newer estimator (schema {version}); start that one on it"
        raise SettingsError("STATE_DIR_TOO_NEW", text)
    return database


def _unusable(why: str) -> SettingsError:
    return SettingsError("STATE_DIR_UNUSABLE", f"state_dir: it cannot be used: {why}")


def _rows(database: sqlite3.Connection) -> list[StoredObservation]:
    names = tuple(StoredObservation.__dataclass_fields__)
    query = f"SELECT {', '.join(names)} FROM observations ORDER BY end_time, job, attempt"  # noqa: S608
    try:
        return [StoredObservation(**dict(zip(names, values, strict=True))) for values in database.execute(query)]
    except sqlite3.Error as error:
        raise _unusable(str(error)) from error


def _values(row: StoredObservation) -> tuple[object, ...]:
    return row.job, row.attempt, row.device, row.end_time, row.record, row.basis, row.point


def _earlier_answer(database: sqlite3.Connection, request_id: str, body_hash: str) -> int | None:
    """Observations that the call with this request id removed; None where there was none. Raises AlreadyExists."""
    query = "SELECT body_hash, removed FROM request_ids WHERE request_id = ?"
    found = database.execute(query, (request_id,)).fetchone()
    if found is None:
        return None
    if found[0] != body_hash:
        text = f"request_id {request_id!r} belongs to another request; take a new one"
        raise AlreadyExists("REQUEST_ID_REUSED", text, metadata={"request_id": request_id})
    return int(found[1])


def _remember(database: sqlite3.Connection, request_id: str, body_hash: str, *, removed: int = 0) -> None:
    """Bind a request id to a body and its answer."""
    values = (request_id, body_hash, removed)
    last = database.execute("INSERT INTO request_ids VALUES (NULL, ?, ?, ?)", values).lastrowid or 0
    database.execute("DELETE FROM request_ids WHERE number <= ?", (last - REQUEST_IDS,))


def _prune(database: sqlite3.Connection, device: str) -> list[tuple[str, int]]:
    old: list[tuple[str, int]] = []
    for scope, limit in ((device, PER_DEVICE), ("", IN_ALL)):
        found = database.execute(_OLD, (scope, limit)).fetchall()
        database.executemany("DELETE FROM observations WHERE job = ? AND attempt = ?", found)
        old += found
    return old


def _refusal(error: sqlite3.Error) -> ResourceExhausted | Unavailable:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return ResourceExhausted("DISK_FULL", "The estimator's disk is full; free space and try again.", retry_delay=30)
    text = "The estimator's observations cannot be written; try again."
    return Unavailable("STORE_UNAVAILABLE", text, retry_delay=1.0)
