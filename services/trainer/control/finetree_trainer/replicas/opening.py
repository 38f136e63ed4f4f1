# SPDX-License-Identifier: Apache-2.0
"""Opens the database of several replicas: the first one leads, those that come later follow it."""

import time
from collections.abc import Callable

from finetree_runtime.config.settings import SecretUrl, SettingsError
from sqlalchemy.exc import DatabaseError

from finetree_trainer.layout import Layout
from finetree_trainer.replicas.stored import leader_of
from finetree_trainer.store.backends.failures import is_corrupt
from finetree_trainer.store.backends.opening import on_server, refused
from finetree_trainer.store.backends.postgresql import PostgreSQL
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import SchemaTooNewError, SchemaTooOldError

START_SECONDS = 30.0
"""How long a replica waits for a leader that begins: one that makes the tables, or brings them to its version."""
_LOOK_SECONDS = 0.1


def open_replica(
    layout: Layout, database_url: SecretUrl, address: str, *, on_superseded: Callable[[], None]
) -> tuple[Store, PostgreSQL]:
    """Open the database to lead where nobody does, else to follow who does. Blocks.

    `address` is where the other replicas reach this one. Raises SettingsError DATABASE_IN_USE where a trainer without
    replicas has it, DATABASE_TOO_OLD where one of an older release does, and as `open_store`.
    """
    backend = on_server(layout, database_url, replica=address, on_superseded=on_superseded)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return Store(backend), backend
        except (SchemaTooNewError, DatabaseError) as error:
            raise refused(backend, error) from None
        except SettingsError as error:
            if error.reason != "DATABASE_IN_USE":
                raise
            in_use = error
        try:
            return _follow(backend, in_use), backend
        except SettingsError as error:
            if error.reason not in _PASSES or time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_SECONDS)


_PASSES = ("DATABASE_IN_USE", "DATABASE_TOO_OLD")
"""Reasons that are gone once a leader has begun."""


def _follow(backend: PostgreSQL, in_use: SettingsError) -> Store:
    try:
        store = Store(backend, follow=True)
    except SchemaTooOldError as error:
        text = f"{error}, and a replica of an older release leads; stop those first"
        raise SettingsError("DATABASE_TOO_OLD", backend.told(text)) from None
    except (SchemaTooNewError, DatabaseError) as error:
        if isinstance(error, DatabaseError) and is_corrupt(error):  # it has no tables yet
            raise in_use from None
        raise refused(backend, error) from None
    try:
        folder, leader = store.read_now(leader_of)
        backend.require_folder(folder)
    except BaseException:
        store.close()
        raise
    if not leader:
        store.close()
        raise in_use
    return store
