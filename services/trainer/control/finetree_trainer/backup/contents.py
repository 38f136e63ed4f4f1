# SPDX-License-Identifier: Apache-2.0
"""Which files of the trainer's folder belong to a backup: those that its database names, in the order of reading.

Links are named and not followed, but those of base models among themselves: a worker writes into its job's folder, and
a link there would bring what it must not read into the folder as a file of its own.

A job's folder is read as a crash would leave it. Checkpoints come before the journal: its worker writes a checkpoint
first and the event that tells of it then, so that the journal knows every checkpoint that was read.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetree_data.exchange import journal

from finetree_trainer.backup.database_copy import View
from finetree_trainer.layout import Layout


@dataclass(frozen=True, slots=True)
class Found:
    """A file to read: its path in the trainer's folder, where it lies, and how many bytes of it count (None: all)."""

    path: str
    place: Path
    limit: int | None = None


@dataclass(slots=True)
class Contents:
    """Files and folders of a backup, and what the database names and the disk has not.

    `newer` has attempts that the view does not know: it is too old for their jobs, or they have never begun.
    """

    files: list[Found] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)


def contents_of(layout: Layout, view: View, *, with_models: bool) -> Contents:
    """List what belongs to a backup."""
    found = Contents()
    for sha256 in sorted(view.contents):
        _take(found, layout, layout.dataset_file(sha256))
    for uid, committed in sorted(view.uploads.items()):
        _take(found, layout, layout.upload_file(uid), limit=committed)
    if with_models:
        _walk(found, layout, layout.models, drafts=True)
    for uid, attempt in view.jobs.items():
        _job(found, layout, uid, attempt)
    for uid, attempt, artifact in view.artifacts:
        folder = layout.artifacts(uid, attempt) / artifact
        if not folder.is_dir():
            found.missing.append(_name(layout, folder))
    return found


def _job(found: Contents, layout: Layout, uid: str, newest: int) -> None:
    folder = layout.job(uid)
    if folder.is_symlink() or (newest and not folder.is_dir()):
        found.missing.append(_name(layout, folder))
        return
    _walk(found, layout, layout.checkpoints(uid), drafts=False)
    attempts = folder / "attempts"
    for attempt in () if attempts.is_symlink() else _entries(attempts):
        if not attempt.name.isdecimal() or int(attempt.name) > newest:
            if attempt.name.isdecimal():
                found.newer.append(_name(layout, attempt))
            continue
        _walk(found, layout, attempt, drafts=False, last=journal.FILE_NAME)
    for other in _entries(folder):
        if other.name not in ("checkpoints", "attempts"):
            if other.is_dir():
                _walk(found, layout, other, drafts=False)
            else:
                _take(found, layout, other)


def _walk(found: Contents, layout: Layout, folder: Path, *, drafts: bool, last: str = "") -> None:
    """Take everything below a folder but drafts, whose names begin with a dot; `drafts`: at any depth.

    A draft stands beside the folders that it will be one of; below those, a dot is a part of a name.
    """
    behind: list[Path] = []
    if folder.is_symlink():
        found.missing.append(f"{_name(layout, folder)} (a link)")
        return
    for place, folders, names in os.walk(folder):
        here = Path(place)
        skipped = "." if drafts or here.name in ("checkpoints", "artifacts") else "/"
        folders[:] = sorted(name for name in folders if not name.startswith(skipped))
        found.folders.append(here)
        for name in sorted(name for name in names if not name.startswith(skipped)):
            if name == last and here == folder:
                behind.append(here / name)
            else:
                _take(found, layout, here / name)
    for file in behind:
        _take(found, layout, file)


def _take(found: Contents, layout: Layout, place: Path, *, limit: int | None = None) -> None:
    """Take a regular file, and of a link between base models the file that it leads to."""
    if place.is_symlink():
        models = layout.models.resolve()
        leads_to = place.resolve()
        if place.is_relative_to(layout.models) and leads_to.is_relative_to(models) and leads_to.is_file():
            found.files.append(Found(_name(layout, place), leads_to))
        else:
            found.missing.append(f"{_name(layout, place)} (a link)")
    elif place.is_file():
        found.files.append(Found(_name(layout, place), place, limit))
    elif not os.path.lexists(place):
        found.missing.append(_name(layout, place))


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError:
        return


def _name(layout: Layout, place: Path) -> str:
    return place.relative_to(layout.root).as_posix()
