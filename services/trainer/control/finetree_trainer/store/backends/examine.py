# SPDX-License-Identifier: Apache-2.0
"""Looks at a database on a server without taking or changing it, whether a trainer uses it or not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetree_runtime.config.settings import SettingsError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from finetree_trainer.layout import Layout
from finetree_trainer.store.backends.folder_mark import FolderMark
from finetree_trainer.store.backends.postgresql import FOLDER, PostgreSQL
from finetree_trainer.store.backends.url import parse

VARIABLE = "FINETREE_TRAINER_DATABASE_URL"
"""Where the trainer's own setting is read from; with _FILE behind it, the file that holds it."""

_SERVER = text("SELECT current_setting('server_version'), to_regclass('meta') IS NOT NULL")
_META = text("SELECT key, value FROM meta WHERE key IN ('schema_version', :folder)")
_JOBS = text("SELECT COUNT(*) FROM jobs")


def examine(layout: Layout, environment: Mapping[str, str]) -> dict[str, Any]:
    """What the database of a data folder is like, as the environment names it.

    Returns:
        server: the server's version. schema_version: of the tables, 0 without any. jobs: how many there are.

    Raises SettingsError DATABASE_URL_MISSING where the environment names none, DATABASE_OF_OTHER_FOLDER, and what keeps
    a trainer from connecting.
    """
    url = parse(url_in(environment))
    backend = PostgreSQL(url, FolderMark(layout.database_mark))
    engine = backend.reading(1)
    try:
        with engine.begin() as connection:
            return _found(connection, backend)
    except DBAPIError as error:
        raise backend.refused(error) from None
    finally:
        engine.dispose()


def _found(connection: Connection, backend: PostgreSQL) -> dict[str, Any]:
    version, has_tables = connection.execute(_SERVER).one()
    if not has_tables:
        return {"server": version, "schema_version": 0, "jobs": 0}
    meta: dict[str, str] = {row.key: row.value for row in connection.execute(_META, {"folder": FOLDER})}
    backend.require_folder(meta.get(FOLDER))
    jobs = connection.execute(_JOBS).scalar() if "schema_version" in meta else 0
    return {"server": version, "schema_version": int(meta.get("schema_version", 0)), "jobs": jobs}


def url_in(environment: Mapping[str, str]) -> str:
    """The URL of a trainer's database, as its environment has it. Raises SettingsError DATABASE_URL_MISSING."""
    if environment.get(VARIABLE):
        return environment[VARIABLE]
    try:
        return Path(environment[f"{VARIABLE}_FILE"]).read_text(encoding="utf-8")
    except (KeyError, OSError, UnicodeError):
        why = f"no URL of a database on a server: set {VARIABLE} or {VARIABLE}_FILE as the trainer has it"
        raise SettingsError("DATABASE_URL_MISSING", why) from None
