# SPDX-License-Identifier: Apache-2.0
"""Gives a data folder's files to the user that workers run as: of a folder from before, or after a restore.

It is done at a start, before anything of the folder is used, and costs one look where it was done already: the folder
of models changes hands last. Links are never followed, and a file with a second name elsewhere is left to its owner.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.logging import get_logger

from finetree_trainer.layout import Layout
from finetree_trainer.worker_user import WorkerUser, lend, passage
from finetree_trainer.workers.process import Liveness, liveness

_ROOT = WorkerUser("root", 0, 0)
"""Whose the files are where a service that is root has no user for its workers."""


def hand_over(layout: Layout) -> bool:
    """Give the files of a data folder to the user of its workers; return whether anything had to be.

    Raises SettingsError: WORKERS_RUNNING while workers of another user are at work, whose files these are;
    WORKER_USER_UNUSABLE where the file system refuses to give them to the user of the setting.
    """
    if os.geteuid() != 0 or _is_done(layout):
        return False
    _require_no_workers(layout)
    try:
        changed = _hand_over(layout, layout.user or _ROOT)
    except OSError as error:
        if layout.user is None:
            # A disk on which nothing has another owner, as some of virtual machines; it went without this before.
            get_logger().warning("data_folder_not_taken_back", why=error.strerror)
            return False
        text = f"the files of data_dir cannot be given to this user: {error.strerror}; use a folder on a local disk"
        raise SettingsError("WORKER_USER_UNUSABLE", f"worker_user: {text}") from error
    get_logger().info("data_folder_handed_over", user=(layout.user or _ROOT).name, entries=changed)
    return True


def _is_done(layout: Layout) -> bool:
    user = layout.user or _ROOT
    try:
        found = layout.models.stat()
    except FileNotFoundError:
        # A new folder, unless jobs of an old trainer are in it, which kept models elsewhere.
        return not layout.jobs.is_dir() and not layout.tokens.is_dir()
    # Which group root's files have is of no matter: their folders are closed to it.
    return found.st_uid == user.uid and (layout.user is None or found.st_gid == user.gid)


def _require_no_workers(layout: Layout) -> None:
    folders = layout.workers.iterdir() if layout.workers.is_dir() else ()
    alive = sum(liveness(folder) is Liveness.ALIVE for folder in folders)
    if alive:
        text = (
            f"{alive} workers of an earlier start still run as another user; start with the earlier setting until "
            "their jobs have ended, or end them"
        )
        raise SettingsError("WORKERS_RUNNING", f"worker_user: {text}")


def _hand_over(layout: Layout, user: WorkerUser) -> int:
    changed = 0
    for job in _folders(layout.jobs):
        attempts = job / "attempts"
        for folder in (job / "checkpoints", *_folders(attempts)):
            changed += _give(folder, user)
        for folder in (job, attempts):
            if folder.is_dir() and not folder.is_symlink():
                passage(folder, layout.user)
    if layout.datasets.is_dir():
        for file in layout.datasets.iterdir():
            if file.is_file() and not file.is_symlink():
                lend(file, user)
    for folder in (layout.tokens, layout.models):
        changed += _give(folder.resolve(), user)
    return changed


def _folders(parent: Path) -> Iterator[Path]:
    if parent.is_dir() and not parent.is_symlink():
        yield from (path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())


def _give(folder: Path, user: WorkerUser) -> int:
    """Give a folder and what is in it to a user, the folder itself last; return how many entries were another's."""
    changed = 0
    if not folder.is_dir():
        return changed
    # From below, so that a walk that was cut off is done again from what it has left.
    for _, _, names, descriptor in os.fwalk(folder, topdown=False, follow_symlinks=False):
        for name in names:
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or (found.st_uid, found.st_gid) == (user.uid, user.gid):
                continue
            if found.st_nlink > 1:
                # Its other name may be anywhere on the disk: whoever made it could have meant a file of the system.
                get_logger().warning("file_with_other_names_left", name=name)
                continue
            os.chown(name, user.uid, user.gid, dir_fd=descriptor, follow_symlinks=False)
            changed += 1
        found = os.fstat(descriptor)
        if (found.st_uid, found.st_gid) != (user.uid, user.gid):
            os.fchown(descriptor, user.uid, user.gid)
            changed += 1
    return changed
