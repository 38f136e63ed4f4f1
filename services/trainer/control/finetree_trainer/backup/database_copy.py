# SPDX-License-Identifier: Apache-2.0
"""One consistent view of a database, copied while a service writes to it, and what the view says of files.

The copy is made by SQLite's online backup inside one read transaction: the writer is never blocked, and what it commits
meanwhile is not in the copy.
"""

import errno
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetree_runtime.config.settings import SettingsError

from finetree_trainer.backup.repository import OnBytes
from finetree_trainer.jobs.stored.database import WAL, located
from finetree_trainer.store.migrations import MIGRATIONS

PAGES = 1024
"""Pages that are copied between two reports of progress."""

_TORN = """
SELECT jobs.uid FROM jobs LEFT JOIN (
  SELECT job_uid, MAX(last_seq) AS newest, MIN(first_seq) AS oldest, SUM(last_seq - first_seq + 1) AS events
  FROM event_blocks GROUP BY job_uid) AS log ON log.job_uid = jobs.uid
WHERE COALESCE(newest, 0) != jobs.last_seq
   OR COALESCE(events, 0) != COALESCE(newest - oldest + 1, 0) OR oldest > jobs.oldest_seq LIMIT 5"""
"""Jobs whose events are not 1, 2, 3 … up to the last number, without a gap, as far as retention has left them."""


@dataclass(frozen=True, slots=True)
class View:
    """What the view of the trainer's database names.

    Attributes:
        time: when it was read, UTC.
        schema_version: version of its tables.
        jobs: newest attempt by uid of a job.
        live: resource names of jobs that had not ended.
        contents: hashes of complete datasets.
        uploads: committed bytes by uid of a dataset that is not complete.
        artifacts: (job, attempt, artifact).
    """

    time: datetime
    schema_version: int
    jobs: dict[str, int]
    live: tuple[str, ...]
    contents: frozenset[str]
    uploads: dict[str, int]
    artifacts: tuple[tuple[str, int, str], ...]


def copy_database(file: Path, target: Path, on_bytes: OnBytes) -> datetime:
    """Copy a database as it is now, and return that moment.

    Raises SettingsError BACKUP_DATABASE_DAMAGED for a database whose pages contradict each other: an earlier backup is
    worth more than one of it.
    """
    target.unlink(missing_ok=True)
    log = file.with_name(file.name + WAL)
    stopped, time = not log.exists(), datetime.now(UTC)
    try:
        with (
            located(file, scratch=target.parent) as address,
            closing(sqlite3.connect(address, uri=True, isolation_level=None)) as source,
            closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            source.execute("BEGIN")
            source.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()  # here the view begins
            time = datetime.now(UTC)
            page = int(source.execute("PRAGMA page_size").fetchone()[0])
            done = 0

            def report(_status: int, remaining: int, total: int) -> None:
                nonlocal done
                copied = (total - remaining) * page
                on_bytes(copied - done)
                done = copied

            source.backup(copy, pages=PAGES, progress=report)
        with reading(target) as copied:
            found = copied.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        found = str(error)
    if found != "ok":
        text = f"{file.name} is damaged on the disk ({found[:80]}); nothing was backed up, earlier backups stay"
        raise SettingsError("BACKUP_DATABASE_DAMAGED", text)
    if stopped and log.exists():
        return copy_database(file, target, on_bytes)  # a service has started meanwhile, and may have written beside it
    return time


def reading(file: Path) -> "closing[sqlite3.Connection]":
    """A connection that reads a copy which nobody writes."""
    return closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True))


def view_of(copy: Path, time: datetime) -> View:
    """Read what a copy of the trainer's database names.

    Raises SettingsError BACKUP_DATABASE_TORN for a log that is not gapless, DATA_DIR_TOO_NEW for later tables.
    """
    with reading(copy) as connection:
        view = view_in(connection, time)
        torn = torn_logs(connection)
    if torn:
        text = f"the log of job {torn[0]} has a gap; nothing was backed up, earlier backups stay"
        raise SettingsError("BACKUP_DATABASE_TORN", text)
    return view


def torn_logs(connection: sqlite3.Connection) -> list[str]:
    """Uids of jobs whose log has a gap, a few of them."""
    return [str(row[0]) for row in connection.execute(_TORN)]


def view_in(connection: sqlite3.Connection, time: datetime) -> View:
    """Read what the trainer's database names. Raises SettingsError DATA_DIR_TOO_NEW for later tables."""
    version = int(connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0])
    if version > len(MIGRATIONS):
        text = f"the database has schema {version}, this program knows {len(MIGRATIONS)}; use a newer release"
        raise SettingsError("DATA_DIR_TOO_NEW", text)
    jobs = connection.execute("SELECT uid, project, attempt, end_time FROM jobs ORDER BY uid").fetchall()
    datasets = connection.execute("SELECT uid, sha256, ready, committed_bytes FROM datasets").fetchall()
    artifacts = connection.execute("SELECT job_uid, attempt, artifact FROM artifacts").fetchall()
    return View(
        time,
        version,
        {uid: attempt for uid, _, attempt, _ in jobs},
        tuple(f"projects/{project}/jobs/{uid}" for uid, project, _, ended in jobs if not ended),
        frozenset(sha256 for _, sha256, ready, _ in datasets if ready),
        {uid: committed for uid, _, ready, committed in datasets if not ready and committed},
        tuple(artifacts),
    )
