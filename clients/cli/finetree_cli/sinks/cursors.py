# SPDX-License-Identifier: Apache-2.0
"""How far each sink is in the log of each job: one small database, committed after every confirmation."""

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from finetree_cli.errors import BadInput, NotAvailable

FILE = "sinks.db"
_LOCK = "sinks.lock"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS cursor (
  sink TEXT NOT NULL, job TEXT NOT NULL, name TEXT NOT NULL, seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
  remote TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', next_try REAL NOT NULL DEFAULT 0,
  PRIMARY KEY (sink, job)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cursor_open ON cursor (sink, done);
CREATE TABLE IF NOT EXISTS sink (
  name TEXT PRIMARY KEY, error TEXT NOT NULL DEFAULT '', failures INTEGER NOT NULL DEFAULT 0,
  next_try REAL NOT NULL DEFAULT 0, delivered_time REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A sink's place in the log of one job."""

    sink: str
    job: str
    """The job's uid."""
    name: str
    """Its resource name."""
    seq: int
    """Number of the event up to which the sink has confirmed everything."""
    last_seq: int
    """Newest number of the log when it was last looked at."""
    remote: str
    """What the target calls the job; empty: not known."""
    done: bool
    """Whether the job has ended and the sink has everything."""
    lost: int
    """Events that retention removed before they could be delivered."""
    failures: int
    """Refusals in a row."""
    error: str
    """Why the last attempt failed; empty: it did not."""
    next_try: float
    """Seconds since 1970 before which it is not tried again."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a sink as a whole is."""

    error: str = ""
    failures: int = 0
    next_try: float = 0.0
    delivered_time: float = 0.0
    """Seconds since 1970 of the last confirmation; 0: never."""


class Cursors:
    """The cursors of all sinks in a folder. Safe to be used by several threads.

    Raises:
        BadInput: The folder cannot be written (SINK_FOLDER_UNUSABLE).
        NotAvailable: Another process delivers from this folder (SINKS_RUNNING), or its file is damaged (SINKS_DAMAGED).
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self._mutex = threading.Lock()
        self._lock: int | None = None
        try:
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._lock = _locked(folder / _LOCK)
            self._db = sqlite3.connect(folder / FILE, isolation_level=None, check_same_thread=False, timeout=10.0)
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + _SCHEMA)
        except sqlite3.OperationalError as error:
            raise _unusable(folder) from error
        except sqlite3.DatabaseError as error:
            text = f"{folder.name}/{FILE} is damaged"
            remedy = "move it away: the sinks then begin at the first event of each job, and targets know repeated ones"
            raise NotAvailable(text, remedy=remedy, reason="SINKS_DAMAGED") from error
        except OSError as error:
            raise _unusable(folder) from error

    def register(self, sink: str, found: Iterable[tuple[str, str, int, bool]]) -> None:
        """Add jobs (uid, name, number of the last event that is not wanted, whether nothing is); known ones stay."""
        rows = [(sink, uid, name, seq, seq, done) for uid, name, seq, done in found]
        with self._writing() as db:
            db.executemany(
                "INSERT OR IGNORE INTO cursor (sink, job, name, seq, last_seq, done) VALUES (?, ?, ?, ?, ?, ?)", rows
            )
            db.execute("INSERT OR IGNORE INTO sink (name) VALUES (?)", (sink,))

    def known(self, sink: str) -> bool:
        """Tell whether the sink has ever looked at the jobs."""
        return bool(self._rows("SELECT 1 FROM sink WHERE name = ?", (sink,)))

    def has(self, sink: str, job: str) -> bool:
        """Tell whether a job was registered for the sink."""
        return bool(self._rows("SELECT 1 FROM cursor WHERE sink = ? AND job = ?", (sink, job)))

    def pending(self, sink: str) -> list[Cursor]:
        """List the jobs whose log the sink does not have to its end, oldest first (a uid begins with its time)."""
        columns = ", ".join(Cursor.__slots__)
        found = self._rows(f"SELECT {columns} FROM cursor WHERE sink = ? AND done = 0 ORDER BY job", (sink,))  # noqa: S608
        return [_cursor(row) for row in found]

    def get(self, sink: str, job: str) -> Cursor | None:
        """Return the cursor of a job, given by its uid or its name; None: not registered."""
        columns = ", ".join(Cursor.__slots__)
        found = self._rows(
            f"SELECT {columns} FROM cursor WHERE sink = ? AND (job = ? OR name = ?)",  # noqa: S608
            (sink, job, job),
        )
        return _cursor(found[0]) if found else None

    def advance(self, cursor: Cursor, seq: int, *, remote: str = "") -> None:
        """Note what the target has confirmed."""
        with self._writing() as db:
            db.execute(
                "UPDATE cursor SET seq = max(seq, ?), remote = CASE WHEN ? = '' THEN remote ELSE ? END, failures = 0,"
                " error = '', next_try = 0 WHERE sink = ? AND job = ?",
                (seq, remote, remote, cursor.sink, cursor.job),
            )
            db.execute(
                "UPDATE sink SET error = '', failures = 0, next_try = 0, delivered_time = ? WHERE name = ?",
                (time.time(), cursor.sink),
            )

    def seen(self, cursor: Cursor, last_seq: int, *, done: bool) -> None:
        """Note how long the log is, and whether nothing is left to deliver."""
        with self._writing() as db:
            db.execute(
                "UPDATE cursor SET last_seq = max(last_seq, ?), done = ? WHERE sink = ? AND job = ?",
                (last_seq, done, cursor.sink, cursor.job),
            )

    def skip(self, cursor: Cursor, seq: int, *, lost: int, note: str = "") -> None:
        """Go on behind events that are no longer kept, or that the operator gives up."""
        with self._writing() as db:
            db.execute(
                "UPDATE cursor SET seq = max(seq, ?), lost = lost + ?, failures = 0, error = ?, next_try = 0"
                " WHERE sink = ? AND job = ?",
                (seq, lost, note, cursor.sink, cursor.job),
            )

    def refused(self, cursor: Cursor, error: str, next_try: float) -> None:
        """Note that the target did not take a job's events."""
        with self._writing() as db:
            db.execute(
                "UPDATE cursor SET failures = failures + 1, error = ?, next_try = ? WHERE sink = ? AND job = ?",
                (error, next_try, cursor.sink, cursor.job),
            )

    def unreachable(self, sink: str, error: str, next_try: float) -> None:
        """Note that the target took nothing."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO sink (name, error, failures, next_try) VALUES (?, ?, 1, ?) ON CONFLICT (name) DO UPDATE"
                " SET error = excluded.error, failures = failures + 1, next_try = excluded.next_try",
                (sink, error, next_try),
            )

    def health(self, sink: str) -> Health:
        """Return how a sink is."""
        found = self._rows("SELECT error, failures, next_try, delivered_time FROM sink WHERE name = ?", (sink,))
        return Health(*found[0]) if found else Health()  # type: ignore[arg-type]  # the columns' types

    def lost(self, sink: str) -> int:
        """Count the events that could not be delivered because they were no longer kept, or were given up."""
        return int(str(self._rows("SELECT coalesce(sum(lost), 0) FROM cursor WHERE sink = ?", (sink,))[0][0]))

    def close(self) -> None:
        """Close the database, and let another process deliver."""
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, sql: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        with self._mutex:
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise


def _cursor(row: tuple[object, ...]) -> Cursor:
    values = dict(zip(Cursor.__slots__, row, strict=True))
    return Cursor(**(values | {"done": bool(values["done"])}))  # type: ignore[arg-type]  # the columns' types


def _locked(path: Path) -> int:
    """Take the folder's lock; it ends with the process."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        text = "another process delivers with the cursors of this folder"
        raise NotAvailable(text, remedy="stop it, or give another --state-dir", reason="SINKS_RUNNING") from error
    return handle


def _unusable(folder: Path) -> BadInput:
    remedy = "give a folder on this machine that can be written, with --state-dir"
    return BadInput(f"cannot keep cursors in the folder {folder.name}", remedy=remedy, reason="SINK_FOLDER_UNUSABLE")
