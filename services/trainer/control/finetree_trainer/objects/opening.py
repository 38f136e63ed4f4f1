# SPDX-License-Identifier: Apache-2.0
"""Opens the object store of the settings: once it is known to keep what is put, and to be this trainer's."""

import asyncio
import secrets
import time
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finetree_data.objects.bucket import Bucket
from finetree_data.objects.errors import ObjectStoreRefusedError, ObjectStoreUnavailableError
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import DomainError
from sqlalchemy import Connection, insert, select

from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.objects.links import LONGEST_SECONDS
from finetree_trainer.settings import Settings
from finetree_trainer.store import schema
from finetree_trainer.store.database import Store

OWNER_KEY = "object_store"
"""Key in `meta` of the name by which the store knows the database that it belongs to."""
MARK = "owner"
"""Object that holds this name."""
LEADER_SECONDS = 30.0
"""How long a replica waits for one that begins to lead, and has not named the store yet."""
_LOOK_SECONDS = 0.1


async def open_copies(settings: Settings, store: Store, layout: Layout) -> Copies:
    """Open the store, and learn what it has; without one there are no copies. Raises as `open_bucket`."""
    copies = Copies(layout, await open_bucket(settings, store))
    if settings.replica_address:
        copies.require_lead = store.require_lead
    try:
        await copies.load()
    except DomainError as error:
        raise SettingsError("OBJECT_STORE_UNREACHABLE", f"object_store: {error.message} Start again") from None
    copies.current = store.leads
    return copies


async def open_bucket(settings: Settings, store: Store) -> Bucket | None:
    """Open the store; None where there is none.

    Raises SettingsError: SETTING_INVALID, OBJECT_STORE_URL_INVALID, OBJECT_STORE_OPTIONS_INVALID, OBJECT_STORE_MISSING,
    OBJECT_STORE_CREDENTIALS, OBJECT_STORE_READ_ONLY, OBJECT_STORE_UNSUPPORTED, OBJECT_STORE_UNREACHABLE,
    OBJECT_STORE_OF_OTHER_TRAINER; SETTING_INVALID at a replica whose leader has none.
    """
    if not settings.object_store:
        return None
    options = _options(settings.object_store_options_file)
    name = await (store.write(_own_name) if store.leads else _name_by_leader(store))
    try:
        bucket = Bucket.open(settings.object_store, options, link_endpoint=_link_endpoint(settings))
        await asyncio.to_thread(_claim, bucket, name)
    except ObjectStoreRefusedError as error:
        raise SettingsError(f"OBJECT_STORE_{error.problem}", f"object_store: {error}") from None
    except ObjectStoreUnavailableError as error:
        text = f"object_store: {error}; look at its endpoint and at the network, then start again"
        raise SettingsError("OBJECT_STORE_UNREACHABLE", text) from None
    return bucket


def _claim(bucket: Bucket, name: str) -> None:
    bucket.probe()
    if bucket.create(MARK, name.encode()):
        return
    if bucket.read(MARK) != name.encode():
        text = "it belongs to the database of another trainer, which deletes there what it does not know"
        raise ObjectStoreRefusedError("OF_OTHER_TRAINER", f"{text}; name another bucket or prefix")


def _name(connection: Connection) -> str | None:
    found = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == OWNER_KEY)).scalar()
    return None if found is None else str(found)


def _own_name(connection: Connection) -> str:
    found = _name(connection)
    if found is None:
        found = secrets.token_hex(16)
        connection.execute(insert(schema.meta), {"key": OWNER_KEY, "value": found})
    return found


async def _name_by_leader(store: Store) -> str:
    """Return the name that the replica which leads has given; one that begins gives it in a moment."""
    deadline = time.monotonic() + LEADER_SECONDS
    while (found := await store.read(_name)) is None:
        if time.monotonic() >= deadline:
            text = "object_store: the replica that leads has none; stop all replicas, then start them with the same one"
            raise SettingsError("SETTING_INVALID", text)
        await asyncio.sleep(_LOOK_SECONDS)
    return found


def _link_endpoint(settings: Settings) -> str:
    """Check the settings of links, and return the endpoint that they name."""
    if settings.object_link_time > LONGEST_SECONDS:
        raise SettingsError("SETTING_INVALID", "object_link_time: links work for at most 7 days")
    endpoint = settings.object_link_endpoint
    if endpoint and not _is_endpoint(endpoint):
        raise SettingsError("SETTING_INVALID", "object_link_endpoint: write it as https://HOST or https://HOST:PORT")
    return endpoint


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    plain = not parts.query and not parts.fragment and "@" not in parts.netloc
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain


def _options(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _invalid(f"it cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # The parser's words may repeat a secret of the line.
        raise _invalid("it is not TOML") from None
    for name, value in found.items():
        if not isinstance(value, str | int | bool):
            raise _invalid(f"{name[:40]!r} must be a text, a number or true or false")
    return found


def _invalid(why: str) -> SettingsError:
    return SettingsError("OBJECT_STORE_OPTIONS_INVALID", f"object_store_options_file: {why}")
