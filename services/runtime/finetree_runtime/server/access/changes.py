# SPDX-License-Identifier: Apache-2.0
"""Changes to an access file: tokens are created and revoked, principals of other kinds are granted roles.

Each change holds the writers' lock from its reading to its renaming, so that none is lost; services see it at their
next call.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.access import file
from finetree_runtime.server.access.table import AccessFileError, AccessTable, Granted, GrantRow, TokenRow
from finetree_runtime.server.access.token import make_token, token_hash

_ID_BYTES = 6


def create_token(
    folder: Path, principal: str, granted: Granted, *, expires: dt.timedelta | None
) -> tuple[TokenRow, str]:
    """Add a token and return it with its text, which is stored nowhere.

    Raises SettingsError: ACCESS_FILE_UNUSABLE.
    """
    text, now = make_token(), _now()
    row = TokenRow(
        id=f"tok_{secrets.token_hex(_ID_BYTES)}",
        sha256=token_hash(text),
        principal=principal,
        granted=granted,
        create_time=now,
        expire_time=None if expires is None else now + expires,
    )
    _change(folder, lambda table: changed(table, tokens=(*table.tokens, row)))
    return row, text


def revoke_token(folder: Path, token_id: str) -> TokenRow:
    """Revoke a token and return it; one that is revoked already keeps its time.

    Raises SettingsError: TOKEN_NOT_FOUND, ACCESS_FILE_UNUSABLE.
    """
    now = _now()
    _require_file(folder)

    def revoked(table: AccessTable) -> AccessTable:
        if all(row.id != token_id for row in table.tokens):
            text = f"no token has the id {token_id!r}: `finetree tokens list` shows the ids"
            raise SettingsError("TOKEN_NOT_FOUND", text)
        rows = (changed(row, revoke_time=row.revoke_time or now) if row.id == token_id else row for row in table.tokens)
        return changed(table, tokens=tuple(rows))

    table = _change(folder, revoked)
    return next(row for row in table.tokens if row.id == token_id)


def set_grant(folder: Path, row: GrantRow) -> None:
    """Set what an OIDC subject or group, or a certificate's subject, may do; what it was granted before is replaced.

    Raises SettingsError: ACCESS_FILE_UNUSABLE.
    """

    def granted(table: AccessTable) -> AccessTable:
        others = (each for each in table.grants if (each.kind, each.name) != (row.kind, row.name))
        return changed(table, grants=(*others, row))

    _change(folder, granted)


def remove_grant(folder: Path, kind: str, name: str) -> None:
    """Take everything from a principal. Raises SettingsError: GRANT_NOT_FOUND, ACCESS_FILE_UNUSABLE."""
    _require_file(folder)

    def removed(table: AccessTable) -> AccessTable:
        left = tuple(each for each in table.grants if (each.kind, each.name) != (kind, name))
        if len(left) == len(table.grants):
            text = f"nothing was granted to the {kind} {name!r}: `finetree tokens list` shows the grants"
            raise SettingsError("GRANT_NOT_FOUND", text)
        return changed(table, grants=left)

    _change(folder, removed)


def read_folder(folder: Path) -> AccessTable:
    """Return the table of a folder. Raises SettingsError: ACCESS_FILE_UNUSABLE."""
    _require_file(folder)
    try:
        return file.read_table(folder / file.NAME)
    except AccessFileError as error:
        raise _unusable(str(error)) from None


def _change(folder: Path, change: Callable[[AccessTable], AccessTable]) -> AccessTable:
    try:
        with file.locked(folder):
            table = change(file.read_or_empty(folder))
            file.replace(folder, table)
    except AccessFileError as error:
        raise _unusable(str(error)) from None
    except OSError as error:
        raise _unusable(f"it cannot be written: {error.strerror}") from None
    return table


def _require_file(folder: Path) -> None:
    """Refuse a folder without an access file: nothing is taken from one, and a folder is not made for that."""
    if not (folder / file.NAME).exists():
        text = (
            f"there is no {file.NAME} in --access-dir: give the folder that the services are given, or make one with "
        )
        raise SettingsError("ACCESS_FILE_UNUSABLE", f"{text}`finetree tokens create NAME --access-dir DIR`")


def _unusable(problem: str) -> SettingsError:
    return SettingsError("ACCESS_FILE_UNUSABLE", f"{file.NAME} in --access-dir: {problem}")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
