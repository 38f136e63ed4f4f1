# SPDX-License-Identifier: Apache-2.0
"""Opens the store that a data folder and the settings name, or says why it cannot be."""

import json
import os
import secrets
from functools import partial
from pathlib import Path

from finetree_runtime.config.settings import SecretUrl, SettingsError
from sqlalchemy.exc import DatabaseError

from finetree_trainer.disk import sync_folder
from finetree_trainer.layout import Layout
from finetree_trainer.store.backends.failures import is_corrupt
from finetree_trainer.store.backends.url import named, parse
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import SchemaTooNewError


def open_store(layout: Layout, database_url: SecretUrl) -> Store:
    """Open the database on a server, or without a URL the folder's own.

    Raises SettingsError: DATA_DIR_… where the folder's is damaged, newer than this program or cannot be opened, or the
    folder belongs to the other kind; DATABASE_… where one on a server cannot be used.
    """
    if layout.database.exists() and layout.database_mark.exists():
        text = "data_dir: a move of its database was cut off; run the same `finetree database move` again"
        raise SettingsError("DATA_DIR_UNFINISHED", text)
    return _on_server(layout, database_url) if database_url else _embedded(layout)


def _embedded(layout: Layout) -> Store:
    if layout.database_mark.exists():
        text = "its jobs are in a database on a server: give database_url, as the trainer that used it had it"
        raise SettingsError("DATA_DIR_WITHOUT_DATABASE", f"data_dir: {text}")
    try:
        return Store(layout.database)
    except SchemaTooNewError as error:
        raise SettingsError("DATA_DIR_TOO_NEW", f"data_dir: {error}; start a newer trainer on it") from None
    except DatabaseError as error:
        if is_corrupt(error):
            text = f"data_dir: {layout.database.name} in it is damaged ({error.orig}); restore the folder from a backup"
            raise SettingsError("DATA_DIR_DAMAGED", text) from None
        raise SettingsError(
            "DATA_DIR_UNUSABLE", f"data_dir: {layout.database.name} in it cannot be opened: {error.orig}"
        ) from None


def _on_server(layout: Layout, database_url: SecretUrl) -> Store:
    from finetree_trainer.store.backends.postgresql import PostgreSQL

    url = parse(database_url.reveal())
    if layout.database.exists():
        text = f"it has a database of its own, {layout.database.name}: carry it over with `finetree database move`"
        raise SettingsError("DATA_DIR_HAS_DATABASE", f"data_dir: {text}, or leave database_url out")
    folder = folder_id(layout.database_mark)
    backend = PostgreSQL(url, folder, partial(_tie, layout.database_mark, folder))
    try:
        return Store(backend)
    except SchemaTooNewError as error:
        raise SettingsError("DATABASE_TOO_NEW", f"database_url: {named(url)}: {error}; start a newer trainer") from None
    except DatabaseError as error:
        raise backend.refused(error) from None


def folder_id(mark: Path) -> str:
    """What a data folder is known by in its database; a new one where there is no mark yet.

    Raises SettingsError DATA_DIR_UNUSABLE.
    """
    try:
        return str(json.loads(mark.read_text(encoding="utf-8"))["data_folder"])
    except FileNotFoundError:
        return secrets.token_hex(16)
    except (OSError, ValueError, KeyError, TypeError):
        raise _unusable(mark) from None


def _tie(mark: Path, folder: str) -> None:
    """Write the mark where there is none: the database learns of the folder only after this."""
    if not mark.exists():
        write_mark(mark, folder)


def write_mark(mark: Path, folder: str) -> None:
    """Write what a folder is known by, and have it on disk. Raises SettingsError DATA_DIR_UNUSABLE."""
    draft = mark.with_name(f"{mark.name}.draft")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps({"data_folder": folder}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(mark)
        sync_folder(mark.parent)
    except OSError:
        raise _unusable(mark) from None


def _unusable(mark: Path) -> SettingsError:
    text = f"data_dir: {mark.name} in it cannot be read or made; look at the disk and the rights of the folder"
    return SettingsError("DATA_DIR_UNUSABLE", text)
