# SPDX-License-Identifier: Apache-2.0
"""Opens the store that a data folder and the settings name, or says why it cannot be."""

from typing import TYPE_CHECKING, Any

from finetree_runtime.config.settings import SecretUrl, SettingsError
from sqlalchemy.exc import DatabaseError

from finetree_trainer.layout import Layout
from finetree_trainer.store.backends.failures import is_corrupt
from finetree_trainer.store.backends.folder_mark import FolderMark
from finetree_trainer.store.backends.url import parse
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import SchemaTooNewError

if TYPE_CHECKING:
    from finetree_trainer.store.backends.postgresql import PostgreSQL


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
    backend = on_server(layout, database_url)
    try:
        return Store(backend)
    except (SchemaTooNewError, DatabaseError) as error:
        raise refused(backend, error) from None


def on_server(layout: Layout, database_url: SecretUrl, **replica: Any) -> "PostgreSQL":
    """The database of a URL, for this folder; `replica` as of PostgreSQL.

    Raises SettingsError DATABASE_URL_INVALID, DATA_DIR_HAS_DATABASE, DATA_DIR_UNUSABLE.
    """
    from finetree_trainer.store.backends.postgresql import PostgreSQL

    url = parse(database_url.reveal())
    if layout.database.exists():
        text = f"it has a database of its own, {layout.database.name}: carry it over with `finetree database move`"
        raise SettingsError("DATA_DIR_HAS_DATABASE", f"data_dir: {text}, or leave database_url out")
    mark = FolderMark(layout.database_mark)
    mark.read()  # one that is damaged is refused before anybody is asked
    return PostgreSQL(url, mark, **replica)


def refused(backend: "PostgreSQL", error: SchemaTooNewError | DatabaseError) -> SettingsError:
    """What keeps a database on a server from being used."""
    if isinstance(error, DatabaseError):
        return backend.refused(error)
    return SettingsError("DATABASE_TOO_NEW", backend.told(f"{error}; start a newer trainer"))
