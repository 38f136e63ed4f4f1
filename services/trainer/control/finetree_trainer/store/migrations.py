# SPDX-License-Identifier: Apache-2.0
"""Numbered steps from an empty database to the tables of `schema.py`, each in a transaction of its own.

A step never changes once released; a new one is appended. One transaction for all of them would hold every
lock until the last is done, which is how an upgrade under load deadlocks.
"""

import secrets
from collections.abc import Callable

from sqlalchemy import Connection, Engine, text

from finetree_trainer.store.sealed import seal

_META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)"

_FIRST = """
CREATE TABLE jobs (
  uid TEXT PRIMARY KEY, shard INTEGER NOT NULL, project TEXT NOT NULL, owner TEXT NOT NULL, task INTEGER NOT NULL,
  state INTEGER NOT NULL, suspended INTEGER NOT NULL, attempt BIGINT NOT NULL, last_seq BIGINT NOT NULL,
  oldest_seq BIGINT NOT NULL, attempt_started BIGINT NOT NULL, cancel_requested BIGINT NOT NULL,
  create_time BIGINT NOT NULL, update_time BIGINT NOT NULL, end_time BIGINT NOT NULL, dataset_uid TEXT NOT NULL,
  evaluation_uid TEXT NOT NULL, snapshot {bytes} NOT NULL);
CREATE INDEX jobs_by_project ON jobs (project, uid);
CREATE INDEX jobs_by_state ON jobs (state, uid);
CREATE TABLE job_records (uid TEXT PRIMARY KEY, record {bytes} NOT NULL);
CREATE TABLE job_labels (
  job_uid TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (job_uid, key));
CREATE INDEX job_labels_by_value ON job_labels (key, value, job_uid);
CREATE TABLE event_blocks (
  job_uid TEXT NOT NULL, first_seq BIGINT NOT NULL, last_seq BIGINT NOT NULL, shard INTEGER NOT NULL,
  attempt BIGINT NOT NULL, kinds BIGINT NOT NULL, time_first BIGINT NOT NULL, time_last BIGINT NOT NULL,
  crc BIGINT NOT NULL, payload {bytes} NOT NULL, PRIMARY KEY (job_uid, first_seq));
CREATE TABLE attempts (
  job_uid TEXT NOT NULL, attempt BIGINT NOT NULL, shard INTEGER NOT NULL, token_hash TEXT NOT NULL,
  worker TEXT NOT NULL, worker_token_hash TEXT NOT NULL, pid BIGINT NOT NULL, slots TEXT NOT NULL,
  acknowledged BIGINT NOT NULL, last_heartbeat BIGINT NOT NULL, started BIGINT NOT NULL, ended BIGINT NOT NULL,
  cause TEXT NOT NULL, PRIMARY KEY (job_uid, attempt));
CREATE INDEX attempts_open ON attempts (ended, job_uid);
CREATE TABLE artifacts (
  job_uid TEXT NOT NULL, artifact TEXT NOT NULL, shard INTEGER NOT NULL, attempt BIGINT NOT NULL,
  create_time BIGINT NOT NULL, record {bytes} NOT NULL, PRIMARY KEY (job_uid, artifact));
CREATE TABLE datasets (
  uid TEXT PRIMARY KEY, shard INTEGER NOT NULL, project TEXT NOT NULL, owner TEXT NOT NULL, sha256 TEXT NOT NULL,
  size_bytes BIGINT NOT NULL, committed_bytes BIGINT NOT NULL, ready INTEGER NOT NULL, create_time BIGINT NOT NULL,
  update_time BIGINT NOT NULL, record {bytes} NOT NULL, CONSTRAINT datasets_by_content UNIQUE (project, sha256));
CREATE INDEX datasets_by_project ON datasets (project, uid);
CREATE INDEX datasets_by_hash ON datasets (sha256);
CREATE TABLE request_ids (
  project TEXT NOT NULL, request_id TEXT NOT NULL, method TEXT NOT NULL, body_hash TEXT NOT NULL,
  resource TEXT NOT NULL, reply {bytes} NOT NULL, create_time BIGINT NOT NULL, PRIMARY KEY (project, request_id));
CREATE TABLE observation_reports (
  job_uid TEXT PRIMARY KEY, shard INTEGER NOT NULL, attempt BIGINT NOT NULL, created BIGINT NOT NULL,
  tries BIGINT NOT NULL, due BIGINT NOT NULL);
CREATE INDEX observation_reports_by_due ON observation_reports (due, job_uid)
"""

_SEALED = {
    "jobs": ("snapshot", "uid"),
    "job_records": ("record", "uid"),
    "artifacts": ("record", "job_uid", "artifact"),
    "datasets": ("record", "uid"),
    "request_ids": ("reply", "project", "request_id"),
}
"""Columns of bytes that get a checksum in step 2, and the keys of their tables."""


def _seal_records(connection: Connection) -> None:
    """Append a checksum to every message in the database (sealed.py)."""
    for table, (column, *keys) in _SEALED.items():
        where = " AND ".join(f"{key} = :{key}" for key in keys)
        change = text(f"UPDATE {table} SET {column} = :sealed WHERE {where}")  # noqa: S608 - names of this file alone
        rows = connection.execute(text(f"SELECT {column} AS content, {', '.join(keys)} FROM {table}")).mappings().all()  # noqa: S608
        for row in rows:
            connection.execute(change, {"sealed": seal(bytes(row["content"])), **{key: row[key] for key in keys}})


_SWEEPS = """
CREATE TABLE sweeps (
  uid TEXT PRIMARY KEY, shard INTEGER NOT NULL, project TEXT NOT NULL, owner TEXT NOT NULL, state INTEGER NOT NULL,
  create_time BIGINT NOT NULL, record {bytes} NOT NULL);
CREATE INDEX sweeps_by_project ON sweeps (project, uid);
CREATE INDEX sweeps_by_state ON sweeps (state, uid)
"""

_REMOVED_JOBS = """
CREATE TABLE removed_jobs (
  uid TEXT PRIMARY KEY, shard INTEGER NOT NULL, project TEXT NOT NULL, cause TEXT NOT NULL,
  remove_time BIGINT NOT NULL, freed_bytes BIGINT NOT NULL, files_left INTEGER NOT NULL);
CREATE INDEX removed_jobs_by_files ON removed_jobs (files_left, uid)
"""

_QUEUE_ORDER = """
ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 2;
ALTER TABLE jobs ADD COLUMN place TEXT NOT NULL DEFAULT ''
"""
"""Jobs of before are of normal priority and have the place of their creation."""

_USAGE = """
CREATE TABLE job_costs (
  job_uid TEXT PRIMARY KEY, shard INTEGER NOT NULL, project TEXT NOT NULL, owner TEXT NOT NULL, month TEXT NOT NULL,
  currency TEXT NOT NULL, hourly BIGINT NOT NULL, reserved BIGINT NOT NULL, spent BIGINT NOT NULL,
  ended INTEGER NOT NULL);
CREATE INDEX job_costs_by_project ON job_costs (project, month);
CREATE INDEX job_costs_by_owner ON job_costs (owner, month);
CREATE TABLE uploaded_bytes (
  project TEXT NOT NULL, owner TEXT NOT NULL, day TEXT NOT NULL, bytes BIGINT NOT NULL,
  PRIMARY KEY (project, owner, day))
"""
"""Jobs of before have no cost that counts in a month."""

MIGRATIONS: tuple[str | Callable[[Connection], None], ...] = (
    *(_FIRST, _seal_records, _SWEEPS, _REMOVED_JOBS, _QUEUE_ORDER, _USAGE),
)
"""Step N takes a database from version N - 1 to N. Statements of a text are separated by semicolons."""


_ON_POSTGRESQL = {
    1: """
ALTER TABLE event_blocks ADD COLUMN rowid BIGINT GENERATED ALWAYS AS IDENTITY;
CREATE UNIQUE INDEX event_blocks_by_position ON event_blocks (rowid);
ALTER TABLE jobs SET (fillfactor = 70)
"""
}
"""What follows a step there. The position that SQLite gives every row is a column; and with room left on their pages,
rows of jobs, which change with every batch of events, are changed in place without touching an index."""


class SchemaTooNewError(Exception):
    """The database was written by a newer version, whose tables this one does not know."""


class SchemaTooOldError(Exception):
    """The database was written by an older version, and somebody else may write to it still."""


def migrate(engine: Engine) -> int:
    """Bring a database to the newest version and return that version.

    Raises SchemaTooNewError for a database of a later version: an older service must not write to it.
    """
    with engine.begin() as connection:
        connection.exec_driver_sql(_worded(_META, connection))
        version = _version(connection)
    if version > len(MIGRATIONS):
        raise SchemaTooNewError(f"the database has schema {version}, this program knows {len(MIGRATIONS)}")
    for number in range(version + 1, len(MIGRATIONS) + 1):
        with engine.begin() as connection:
            # Read again under the write lock: of two services that start together, one migrates.
            if _version(connection) < number:
                _apply(connection, number)
    return len(MIGRATIONS)


def require_current(connection: Connection) -> int:
    """Return the version of a database, which must be this program's.

    Raises SchemaTooNewError, SchemaTooOldError; DBAPIError for one without tables.
    """
    version = _version(connection)
    if version != len(MIGRATIONS):
        error = SchemaTooNewError if version > len(MIGRATIONS) else SchemaTooOldError
        raise error(f"the database has schema {version}, this program knows {len(MIGRATIONS)}")
    return version


def create_tables(connection: Connection) -> None:
    """Make the newest tables in a database that has none, in the transaction of the caller."""
    connection.exec_driver_sql(_worded(_META, connection))
    for number in range(1, len(MIGRATIONS) + 1):
        _apply(connection, number)


def _apply(connection: Connection, number: int) -> None:
    steps = [MIGRATIONS[number - 1]]
    if connection.dialect.name == "postgresql" and number in _ON_POSTGRESQL:
        steps.append(_ON_POSTGRESQL[number])
    for step in steps:
        if isinstance(step, str):
            for statement in _worded(step, connection).split(";"):
                connection.exec_driver_sql(statement)
        else:
            step(connection)
    connection.execute(text("DELETE FROM meta WHERE key = 'schema_version'"))
    connection.execute(text("INSERT INTO meta VALUES ('schema_version', :version)"), {"version": str(number)})
    if number == 1:
        # Cursors carry it: one from before a restored backup must not be taken for a place in this log.
        epoch = secrets.token_hex(4)
        connection.execute(text("INSERT INTO meta VALUES ('log_epoch', :epoch)"), {"epoch": epoch})


def _worded(statements: str, connection: Connection) -> str:
    """Statements in the words of a database. Text is compared by its bytes, in PostgreSQL too, whatever its locale."""
    if connection.dialect.name != "postgresql":
        return statements.replace("{bytes}", "BLOB")
    return statements.replace("{bytes}", "BYTEA").replace(" TEXT", ' TEXT COLLATE "C"')


def _version(connection: Connection) -> int:
    found = connection.execute(text("SELECT value FROM meta WHERE key = 'schema_version'")).scalar()
    if found is None:
        return 0
    if not str(found).isdecimal():  # damaged on the disk, or written by something else
        raise SchemaTooNewError(f"the database has schema {str(found)[:20]!r}, this program knows {len(MIGRATIONS)}")
    return int(found)
