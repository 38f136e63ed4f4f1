# SPDX-License-Identifier: Apache-2.0
"""The user that workers run as, where that is another one than the service's, and what of the data folder it may use.

Folders of the service stay root's. Through those that lead to a task's files the workers' group may pass, without
seeing what else is in them; a task's own folders belong to the user; datasets can be read by the group.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetree_data.confinement import privileges
from finetree_runtime.config.settings import SettingsError

from finetree_trainer.disk import private_folder

MAX_ID = 2**32 - 2
"""Largest number of a user or group: the one above means "leave it as it is" to the system's calls."""
_NEEDED = {0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 5: "KILL", 6: "SETGID", 7: "SETUID"}
"""Capabilities of root without which it cannot run workers as another user, nor read and end them (capabilities(7))."""


@dataclass(frozen=True, slots=True)
class WorkerUser:
    """A user of this machine that is not root, with the one group that workers have."""

    name: str
    """As it was configured, for people."""
    uid: int
    gid: int

    @classmethod
    def find(cls, text: str) -> "WorkerUser | None":
        """Return the user of the setting `worker_user`: NAME or UID, with :GROUP or its own group; None for "".

        Raises SettingsError WORKER_USER_INVALID for one that is unknown, or root; WORKER_USER_NEEDS_ROOT where this
        process may not run programs as somebody else.
        """
        if not text:
            return None
        user, colon, group = text.partition(":")
        entry = _user(user)
        uid = entry.pw_uid if entry is not None else _number(user, "user")
        if colon:
            gid = _group(group)
        elif entry is not None:
            gid = entry.pw_gid
        else:
            raise _invalid(f"user {uid} has no entry on this machine, hence no group: name one, as in {uid}:{uid}")
        if not uid or not gid:
            raise _invalid("workers must not be root, nor of root's group; name a user that does nothing else")
        _require_root()
        return cls(entry.pw_name if entry is not None else str(uid), uid, gid)


def passage(folder: Path, user: WorkerUser | None) -> Path:
    """Make a folder that is the service's, and through which workers pass to what is theirs; return it."""
    if user is None:
        return private_folder(folder)
    return _folder(folder, uid=-1, gid=user.gid, mode=0o710)


def own_folder(folder: Path, user: WorkerUser | None) -> Path:
    """Make a folder that is the workers' alone, and return it. A link in its place is refused with OSError."""
    if user is None:
        return private_folder(folder)
    return _folder(folder, uid=user.uid, gid=user.gid, mode=0o700)


def lend(file: Path, user: WorkerUser | None) -> None:
    """Let workers read a file of the service."""
    if user is None:
        return
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _set(descriptor, uid=-1, gid=user.gid, mode=0o640)
    finally:
        os.close(descriptor)


def _folder(folder: Path, *, uid: int, gid: int, mode: int) -> Path:
    if not folder.is_dir():
        private_folder(folder)
    with _opened(folder) as descriptor:
        _set(descriptor, uid=uid, gid=gid, mode=mode)
    return folder


def give(draft: Path, user: WorkerUser | None) -> None:
    """Give a folder of the service's own making, with everything in it, to the workers."""
    if user is None:
        return
    for place, _, names in os.walk(draft):
        for path in (place, *(f"{place}/{name}" for name in names)):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)


def _set(descriptor: int, *, uid: int, gid: int, mode: int) -> None:
    """Set owner, group and mode of what is open where they differ; the mode last, since a new owner clears parts of it.

    A `uid` of -1 leaves the owner.
    """
    found = os.fstat(descriptor)
    if found.st_gid != gid or uid not in (-1, found.st_uid):
        os.fchown(descriptor, uid, gid)
    if stat.S_IMODE(found.st_mode) != mode:
        os.fchmod(descriptor, mode)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open a folder, not what a link in its place leads to: a worker may have made it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _user(text: str) -> pwd.struct_passwd | None:
    """Look up a name, or a number that has an entry; None for a number without one."""
    try:
        return pwd.getpwuid(_number(text, "user")) if text.isdecimal() else pwd.getpwnam(text)
    except KeyError:
        if text.isdecimal():
            return None
        raise _invalid(f"this machine has no user {text[:64]!r}; make one, or give a number as UID:GID") from None


def _group(text: str) -> int:
    if text.isdecimal():
        return _number(text, "group")
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise _invalid(f"this machine has no group {text[:64]!r}; make one, or give a number") from None


def _number(text: str, what: str) -> int:
    if not text.isascii() or len(text) > len(str(MAX_ID)) or int(text) > MAX_ID:
        raise _invalid(f"a {what} is a number from 1 to {MAX_ID}")
    return int(text)


def _require_root() -> None:
    if os.geteuid() != 0:
        text = "the service itself must run as root to run workers as another user; leave it out to run them as its own"
        raise SettingsError("WORKER_USER_NEEDS_ROOT", f"worker_user: {text}")
    held = privileges.effective()
    lacking = [f"CAP_{name}" for number, name in _NEEDED.items() if not held >> number & 1]
    if lacking:
        text = f"root lacks {', '.join(lacking)} here; grant them to the service (in a container: --cap-add)"
        raise SettingsError("WORKER_USER_NEEDS_ROOT", f"worker_user: {text}")


def _invalid(text: str) -> SettingsError:
    return SettingsError("WORKER_USER_INVALID", f"worker_user: {text}")
