# SPDX-License-Identifier: Apache-2.0
"""The audit log of commands that change an installation without calling a service, such as `finetree tokens`.

It is a log of its own beside those of the services, since a chain has one writer: each command takes it for as long as
it runs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.audit.files import AuditFiles
from finetree_runtime.server.audit.log import stamped

NAME = "finetree-tokens"
"""Folder of the log below the folder of audit logs."""
FILE_BYTES = 64 * 1024**2


@contextlib.contextmanager
def recorded(folder: Path | None, method: str, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Record the change that the block makes, before and after; without a folder of audit logs nothing is recorded.

    `fields` says what is to be done; what the block adds to the dictionary that it is given is in the second record. A
    record before that has none after it was cut off, and what it names may have happened.

    Raises SettingsError AUDIT_DIR_UNUSABLE where the first record cannot be written; the block then does not run.
    """
    found: dict[str, Any] = {}
    if folder is None:
        yield found
        return
    about = {"principal": _user(), "kind": "local", "peer": "local", "method": method, **fields}
    try:
        log = AuditFiles(folder / NAME, FILE_BYTES, wait=True)
    except OSError as error:
        raise _unusable(error) from None
    try:
        try:
            log.append([stamped("begin", about)])
            log.sync()
            _give_to_the_owner_of(folder)
        except OSError as error:
            raise _unusable(error) from None
        code, reason = "UNKNOWN", ""
        try:
            yield found
            code = "OK"
        except SettingsError as error:
            code, reason = "FAILED_PRECONDITION", error.reason
            raise
        finally:
            # The change is made; that it cannot be told any more must not hide it from who asked for it.
            with contextlib.suppress(OSError):
                log.append([stamped("call", {**about, **found, "code": code, "reason": reason})])
                log.sync()
    finally:
        log.close()


def _user() -> str:
    """Name of this process's user, its number where the machine knows no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _give_to_the_owner_of(folder: Path) -> None:
    """Have the log belong to whoever has the folder of logs: root may run a command for the services' user."""
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    for path in (folder / NAME, *(folder / NAME).iterdir()):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _unusable(error: OSError) -> SettingsError:
    text = f"audit_dir: nothing was changed, since it cannot be recorded there: {error.strerror}"
    return SettingsError("AUDIT_DIR_UNUSABLE", f"{text}; name another folder with --audit-dir, or give --no-audit")
