# SPDX-License-Identifier: Apache-2.0
"""What the failures of a database mean to a client: a full disk, a damaged database, or one that is away.

PostgreSQL's failures are known by SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html), so that its driver
need not be there to name them.
"""

import sqlite3

from finetree_runtime.errors import DomainError, FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from sqlalchemy.exc import DataError, DBAPIError

from finetree_trainer.disk import disk_full

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA}
"""SQLite's codes for a damaged file. The tables are those of the last migration, so that a statement which SQLite finds
wrong (SQLITE_ERROR: no such column) says that their description in the file is."""

_DISK_FULL = "53100"
_CORRUPT_STATES = ("XX001", "XX002")
"""A damaged page of a table, or of an index."""
_WRONG_TABLES = ("42P01", "42703", "3F000")
"""No such table, column or schema: somebody has changed what the migrations made."""
_OUR_FAULT = ("22", "23")
"""Classes of statements that no later try makes right: bad data, a broken constraint."""


def is_corrupt(error: DBAPIError) -> bool:
    """Return whether a database's failure says that what it stores is damaged, or is none of its own."""
    state = sqlstate(error)
    if state:
        return state in _CORRUPT_STATES or state in _WRONG_TABLES
    if not isinstance(error.orig, sqlite3.Error):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is None:  # the driver's own: a text that is not UTF-8
        return "decode" in str(error.orig)
    return code & 0xFF in _CORRUPT  # extended codes have more bits


def sqlstate(error: DBAPIError) -> str:
    """PostgreSQL's code of a failure; "" where there is none: SQLite's, or one of the connection."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def is_lost(error: BaseException) -> bool:
    """Return whether a connection was lost: what the database did last is not known from this."""
    return isinstance(error, DBAPIError) and bool(error.connection_invalidated)


def as_domain(error: Exception) -> Exception:
    """A database's own failure as a DomainError; others unchanged, and statements that can never succeed.

    RESOURCE_EXHAUSTED DISK_FULL, FAILED_PRECONDITION STORE_DAMAGED, or UNAVAILABLE STORE_UNAVAILABLE; INVALID_ARGUMENT
    INVALID_REQUEST for a text that PostgreSQL cannot store.
    """
    if isinstance(error, DomainError) or not isinstance(error, DBAPIError):
        return error
    found = _named(error)
    if found is None:
        return error
    found.__cause__ = error
    return found


def _named(error: DBAPIError) -> DomainError | None:
    state = sqlstate(error)
    if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return disk_full()
    if state == _DISK_FULL:
        text = "The disk of the trainer's database is full; free space and try again."
        return ResourceExhausted("DISK_FULL", text, retry_delay=30.0)
    if is_corrupt(error):
        return FailedPrecondition(
            "STORE_DAMAGED", "The trainer's database is damaged on disk; restore the trainer's data from a backup."
        )
    if isinstance(error, DataError) and "NUL" in str(error.orig):  # the driver's own, before anything is sent
        return InvalidArgument("INVALID_REQUEST", "A text has the character U+0000, which PostgreSQL does not store.")
    return None if state[:2] in _OUR_FAULT else unavailable()


def unavailable() -> Unavailable:
    """Build the error for a database that does not take a write now."""
    return Unavailable("STORE_UNAVAILABLE", "The trainer's database cannot be written; try again.", retry_delay=1.0)


def why_away(error: DomainError) -> str:
    """Name a failure for the log: its reason, and PostgreSQL's code where there is one; nothing that a user wrote."""
    cause = error.__cause__
    state = sqlstate(cause) if isinstance(cause, DBAPIError) else ""
    return f"{error.reason} {state}".strip()
