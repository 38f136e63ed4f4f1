# SPDX-License-Identifier: Apache-2.0
"""Makes a backup of the trainer's and the estimator's folders, whether the services run or not.

The trainer's database is read first, then the files that it names. A service removes rows before files, so that a file
which is gone by then is one that a later view of the database does not name: the database is read again, and only what
is new since. A folder of a service is only read.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

from finetree_trainer.backup import database_copy
from finetree_trainer.backup.contents import Contents, contents_of
from finetree_trainer.backup.database_copy import View
from finetree_trainer.backup.manifest import SERVICES, SUITE, File, Folder, Manifest
from finetree_trainer.backup.repository import Repository
from finetree_trainer.layout import Layout, trainer_folder
from finetree_trainer.settings import NAME

ROUNDS = 5
"""How often the database is read before what it names and the disk has not is taken for lost, not for just removed."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened: it may have become a link or a pipe since it was listed."""
OBSERVATIONS = "observations.db"
"""The estimator's database, in its folder."""
TRAINER, ESTIMATOR = "trainer", "estimator"
"""Parts of a backup: the first component of its paths."""

OnProgress = Callable[[int, int], None]
"""Called with the bytes that are done and those in all, as far as they are known."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The folders to back up; `layout` is `SUITE` where the trainer's is `trainer` in a folder of `finetree up`."""

    trainer: Path
    estimator: Path | None
    layout: str

    @classmethod
    def of(cls, data_dir: Path, estimator_dir: Path | None = None) -> "Sources":
        """The folders of a suite's data folder, or a trainer's own one and an estimator's."""
        if trainer_folder(data_dir) == data_dir:
            return cls(data_dir, estimator_dir, SERVICES)
        own = estimator_dir or data_dir / ESTIMATOR
        return cls(data_dir / TRAINER, own if own.is_dir() else None, SUITE)


@dataclass(slots=True)
class Created:
    """A backup that was made, and how many bytes of it were new."""

    manifest: Manifest
    written: int


def create(
    repository: Repository, sources: Sources, *, with_models: bool = True, on_progress: OnProgress | None = None
) -> Created:
    """Make a backup.

    Raises SettingsError (BACKUP_DATABASE_DAMAGED, BACKUP_DATABASE_TORN, BACKUP_IN_PROGRESS, DATA_DIR_EMPTY), OSError;
    then the folder has the backups that it had before.
    """
    with repository.locked(writing=True):
        repository.remove_drafts()
        work = _Work(repository, sources, with_models, on_progress or (lambda _done, _total: None))
        manifest = work.run()
        repository.complete(manifest)
        return Created(manifest, repository.written)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A view of the trainer's database with the files that were read for it; `gone` were removed meanwhile."""

    view: View
    database: File
    contents: Contents
    files: list[File]
    gone: list[str]

    @property
    def lacking(self) -> set[str]:
        """Paths that the view names and the disk has not."""
        return {*self.gone, *self.contents.missing}

    @property
    def settled(self) -> bool:
        """Whether the disk had everything that the view names, and the view is no older than a job's attempt."""
        return not (self.lacking or self.contents.newer)


@dataclass(slots=True)
class _Work:
    repository: Repository
    sources: Sources
    with_models: bool
    on_progress: OnProgress
    known: dict[str, File] = field(default_factory=dict)
    """Files that are kept already, by path: of the newest backup, then of this one."""
    done: int = 0
    total: int = 0

    def run(self) -> Manifest:
        self.known = self._of_newest_backup()
        layout = Layout(self.sources.trainer)
        taken = self._taken(layout)
        for _ in range(ROUNDS - 1):
            before = taken
            if before.settled:
                break
            taken = self._taken(layout)
            if taken.lacking == before.lacking and taken.contents.newer == before.contents.newer:
                break  # the trainer lacks it too
        view, contents, files = taken.view, taken.contents, [*taken.files, taken.database]
        folders = [
            Folder(f"{TRAINER}/{path.relative_to(layout.root).as_posix()}", path.stat().st_mtime_ns)
            for path in contents.folders
            if path.is_dir()
        ]
        parts = [TRAINER]
        if self.sources.estimator is not None and (self.sources.estimator / OBSERVATIONS).is_file():
            files.append(self._estimator_database(self.sources.estimator / OBSERVATIONS))
            parts.append(ESTIMATOR)
        return Manifest(
            id=view.time.strftime("%Y%m%dT%H%M%S.%fZ"),
            time=view.time.isoformat(timespec="microseconds"),
            version=version(NAME),
            schema_version=view.schema_version,
            layout=self.sources.layout,
            parts=tuple(parts),
            with_models=self.with_models,
            jobs=len(view.jobs),
            live=view.live,
            files=tuple(files),
            folders=tuple(folders),
            missing=tuple(sorted(taken.lacking)),
        )

    def _taken(self, layout: Layout) -> "_Taken":
        """Read the database, then the files that it names."""
        view, database = self._trainer_database(layout.database)
        contents = contents_of(layout, view, with_models=self.with_models)
        files, gone = self._files(contents)
        return _Taken(view, database, contents, files, gone)

    def _of_newest_backup(self) -> dict[str, File]:
        backups = self.repository.ids()
        if not backups:
            return {}
        return {file.path: file for file in self.repository.load(backups[-1]).files}

    def _trainer_database(self, file: Path) -> tuple[View, File]:
        with self._copy(file) as (copy, time):
            return database_copy.view_of(copy, time), self._kept_copy(copy, TRAINER)

    def _estimator_database(self, file: Path) -> File:
        with self._copy(file) as (copy, _time):
            return self._kept_copy(copy, ESTIMATOR)

    @contextmanager
    def _copy(self, file: Path) -> Iterator[tuple[Path, datetime]]:
        copy = self.repository.drafts / file.name
        try:
            yield copy, database_copy.copy_database(file, copy, self._advance)
        finally:
            copy.unlink(missing_ok=True)

    def _kept_copy(self, copy: Path, part: str) -> File:
        with copy.open("rb") as stream:
            return self.repository.put(f"{part}/{copy.name}", stream, on_bytes=self._advance)

    def _files(self, contents: Contents) -> tuple[list[File], list[str]]:
        """Keep the files of a view; return them, and the paths of those that are gone meanwhile."""
        kept, gone = [], []
        self.total = self.done + sum(_size(found.place) for found in contents.files)
        for found in contents.files:
            path = f"{TRAINER}/{found.path}"
            try:
                with open(os.open(found.place, _READ), "rb") as stream:  # noqa: PTH123 - of a descriptor
                    file = self._kept(path, stream, found.limit)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                gone.append(found.path)
                continue
            if found.limit is not None and file.size < found.limit:
                gone.append(found.path)
            self.known[path] = file
            kept.append(file)
        return kept, gone

    def _kept(self, path: str, stream: BinaryIO, limit: int | None) -> File:
        """Keep a file; one that has the size and the time of the one that is kept already is not read again."""
        status, before = os.fstat(stream.fileno()), self.known.get(path)
        size = status.st_size if limit is None else min(status.st_size, limit)
        same = before is not None and (before.size, before.modified_ns) == (size, status.st_mtime_ns)
        if before is not None and same and self.repository.has(before):
            self._advance(size)
            return before
        return self.repository.put(path, stream, limit=limit, on_bytes=self._advance)

    def _advance(self, count: int) -> None:
        self.done += count
        self.on_progress(self.done, max(self.total, self.done))


def _size(place: Path) -> int:
    try:
        return place.stat().st_size
    except OSError:
        return 0
