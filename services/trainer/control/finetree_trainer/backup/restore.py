# SPDX-License-Identifier: Apache-2.0
"""Puts a backup into an empty folder, so that a trainer that starts on it goes on as after a crash.

Three things are not as they were: the log has another epoch, so that cursors of the lost history are refused
(LOG_RESET); attempts that were open have other secrets, so that workers of the former service are sent away; and their
processes count as proven dead, so that their jobs go on from the newest checkpoint at once.
"""

import fcntl
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from finetree_data.durable_files import sync_folder
from finetree_data.fail_points import fail_point
from finetree_runtime.config.settings import SettingsError

from finetree_trainer.backup.create import ESTIMATOR, OBSERVATIONS, TRAINER, OnProgress
from finetree_trainer.backup.manifest import SUITE, File, Manifest
from finetree_trainer.backup.repository import Repository
from finetree_trainer.disk import private_folder
from finetree_trainer.layout import Layout
from finetree_trainer.store import attempts
from finetree_trainer.store.migrations import MIGRATIONS
from finetree_trainer.workers.process import LOCK

_DATABASES = {f"{TRAINER}/trainer.db", f"{ESTIMATOR}/{OBSERVATIONS}"}
"""The databases of the services."""
_IGNORED = {"lost+found", "service.lock"}
"""What an empty folder may hold: that of a file system of its own, and the lock of a service that was never used."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A backup that was restored; `folders` has the folder of each part."""

    manifest: Manifest
    folders: dict[str, Path]


def choose(repository: Repository, *, backup: str = "", at: datetime | None = None) -> Manifest:
    """The named backup, or the newest that is not after a time, or the newest.

    Raises SettingsError BACKUP_NOT_FOUND, BACKUP_DAMAGED.
    """
    if backup:
        return repository.load(backup)
    latest = at.strftime("%Y%m%dT%H%M%S.%fZ") if at is not None else "~"
    known = repository.ids()
    found = [each for each in known if each <= latest]
    if not found:
        oldest = f"; the oldest is {known[0]}" if known else ""
        raise SettingsError("BACKUP_NOT_FOUND", f"there is no backup of that time or before{oldest}")
    return repository.load(found[-1])


def restore(
    repository: Repository,
    manifest: Manifest,
    target: Path,
    *,
    estimator_dir: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Restored:
    """Write a backup's files, each checked, into folders that are empty or do not exist.

    Raises SettingsError (RESTORE_TARGET_NOT_EMPTY, RESTORE_TARGET_IN_USE, RESTORE_WORKERS_ALIVE, RESTORE_NO_SPACE,
    BACKUP_DAMAGED, DATA_DIR_TOO_NEW), OSError; then the folders are empty. Where it is killed, no trainer starts on the
    folder, and another restore into it begins anew.
    """
    if manifest.schema_version > len(MIGRATIONS):
        text = f"the backup has schema {manifest.schema_version}, this program knows {len(MIGRATIONS)}"
        raise SettingsError("DATA_DIR_TOO_NEW", f"{text}; restore it by release {manifest.version}")
    folders = _folders(manifest, target, estimator_dir)
    with repository.locked(writing=False), ExitStack() as held:
        for folder in folders.values():
            held.enter_context(_claimed(folder))
        _require_no_workers(Layout(folders[TRAINER]))
        _require_space(folders, manifest)
        _write(repository, manifest, folders, on_progress)
        for folder in folders.values():
            sync_folder(folder)
        fail_point("restore.before_end")
        for folder in folders.values():
            Layout(folder).restoring.unlink()
            sync_folder(folder)
    return Restored(manifest, folders)


def _folders(manifest: Manifest, target: Path, estimator_dir: Path | None) -> dict[str, Path]:
    """The folder of each part; the estimator's is left out where it was in a place of its own and none is named."""
    suite = manifest.layout == SUITE
    folders = {TRAINER: target / TRAINER if suite else target}
    if ESTIMATOR in manifest.parts and (suite or estimator_dir is not None):
        folders[ESTIMATOR] = estimator_dir or target / ESTIMATOR
    return folders


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Take an empty folder: hold its service's lock, and mark it as unfinished."""
    private_folder(folder)
    layout = Layout(folder)
    lock = os.open(layout.service_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"a service uses {folder.name}; stop it, and name an empty folder"
            raise SettingsError("RESTORE_TARGET_IN_USE", text) from None
        others = [path for path in folder.iterdir() if path.name not in _IGNORED]
        if others and not layout.restoring.exists():
            text = f"{folder.name} is not empty (it has {others[0].name[:80]!r}); name an empty folder or a new one"
            raise SettingsError("RESTORE_TARGET_NOT_EMPTY", text)
        _empty(folder)
        layout.restoring.write_text(json.dumps({"pid": os.getpid()}), encoding="ascii")
        sync_folder(folder)
        try:
            yield
        except BaseException:
            _empty(folder)
            layout.restoring.unlink(missing_ok=True)
            raise
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    """Remove what a restore that was cut off has left; its mark goes last."""
    for path in folder.iterdir():
        if path.name in _IGNORED or path == Layout(folder).restoring:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _require_no_workers(layout: Layout) -> None:
    """Refuse while a worker of a service that had this folder lives: it would write into the new one.

    It is known by the socket on its command line; where /proc cannot be read, its secret alone keeps it out.
    """
    socket = f"unix:{layout.worker_socket}".encode()
    # Not by a pattern for the files: looking whether one exists fails where its process ends in that moment (ESRCH).
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if socket in (place / "cmdline").read_bytes().split(b"\0"):
                text = f"process {place.name} is a worker of the service that had this folder; end it, or wait"
                raise SettingsError("RESTORE_WORKERS_ALIVE", text)


def _require_space(folders: dict[str, Path], manifest: Manifest) -> None:
    free, needed = shutil.disk_usage(folders[TRAINER]).free, manifest.size_bytes
    if free < needed:
        raise SettingsError("RESTORE_NO_SPACE", f"the backup has {needed} bytes, the disk of the folder {free} free")


def _write(
    repository: Repository, manifest: Manifest, folders: dict[str, Path], on_progress: OnProgress | None
) -> None:
    """Write everything, the databases last: a folder without its database is nobody's data."""
    files = [file for file in manifest.files if _part(file.path) in folders]
    places = [each for each in manifest.folders if _part(each.path) in folders]
    done, total = 0, sum(file.size for file in files)
    for each in places:
        private_folder(_place(folders, each.path))
    for file in sorted(files, key=lambda file: file.path in _DATABASES):
        place = _place(folders, file.path)
        private_folder(place.parent)
        for count in _write_file(repository, file, place):
            done += count
            if on_progress is not None:
                on_progress(done, total)
    for each in sorted(places, key=lambda folder: -folder.path.count("/")):
        os.utime(_place(folders, each.path), ns=(each.modified_ns, each.modified_ns))


def _write_file(repository: Repository, file: File, place: Path) -> Iterator[int]:
    """Write a file, a database under another name first; yield the bytes of each piece."""
    if file.path not in _DATABASES:
        yield from _written(repository, file, place)
        return
    fail_point("restore.before_database")
    draft = place.with_name(f".{place.name}.restoring")
    yield from _written(repository, file, draft)
    if _part(file.path) == TRAINER:
        _begin_another_history(draft, Layout(place.parent))
    draft.replace(place)


def _written(repository: Repository, file: File, place: Path) -> Iterator[int]:
    with place.open("xb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        for content in repository.read(file):
            stream.write(content)
            yield len(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.utime(place, ns=(file.modified_ns, file.modified_ns))  # retention counts from it


def _begin_another_history(database: Path, layout: Layout) -> None:
    """Give the log another epoch and open attempts other secrets, and have their processes count as dead."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE meta SET value = ? WHERE key = 'log_epoch'", (secrets.token_hex(4),))
        still_open = connection.execute("SELECT job_uid, attempt, worker FROM attempts WHERE ended = 0").fetchall()
        for job, attempt, worker in still_open:
            connection.execute(
                "UPDATE attempts SET token_hash = ?, worker_token_hash = ?, pid = 0, "
                "cause = CASE cause WHEN '' THEN ? ELSE cause END WHERE job_uid = ? AND attempt = ?",
                (secrets.token_hex(32), secrets.token_hex(32), attempts.INTERRUPTED, job, attempt),
            )
            # A lock that can be taken is the proof of death (workers/process.py); without the file it would be waited
            # for until the lease is over.
            lock = private_folder(layout.workers / worker) / LOCK
            lock.touch(0o600)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for ending in ("-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)


def _part(path: str) -> str:
    return path.partition("/")[0]


def _place(folders: dict[str, Path], path: str) -> Path:
    return folders[_part(path)] / path.partition("/")[2]
