# SPDX-License-Identifier: Apache-2.0
"""Removes what no row of the database belongs to: folders of jobs, uploads and contents of datasets that are gone.

They are left by a kill between a transaction and the removal of files, or by a backup that is older than the folder.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection, func, select

from finetree_trainer.datasets.contents import Contents
from finetree_trainer.disk import folder_bytes, remove_tree
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.store import schema
from finetree_trainer.store.database import Store


@dataclass(frozen=True, slots=True)
class _Known:
    """Uids of jobs with whether an attempt has begun, uids and hashes of datasets, and whether there is nothing."""

    jobs: dict[str, bool]
    datasets: set[str]
    contents: set[str]
    empty: bool


async def remove_leftovers(store: Store, layout: Layout, contents: Contents) -> int:
    """Remove files without a row, name rows without files; return the bytes that are freed.

    A database without a single job or dataset is taken for a lost one: then nothing is removed, only named.
    """
    # The folders first: whatever is created meanwhile is not among them.
    places = await asyncio.to_thread(_places, layout)
    known = await store.read(_known)
    freed = await asyncio.to_thread(_remove, places, known, layout)
    if not known.empty:
        # A content may be uploaded again meanwhile; a uid is never given again.
        for place in places["content"]:
            sha256 = place.name.partition(".")[0]
            if sha256 not in known.contents:
                freed += _note_removed("content", place.name, await contents.remove_unused(sha256))
    return freed


async def remove_left_copies(store: Store, layout: Layout, copies: Copies, contents: Contents) -> None:
    """Remove copies without a row from the object store: of jobs, artifacts and datasets that are gone.

    Raises Unavailable OBJECT_STORE_UNAVAILABLE.
    """
    # The copies first: whatever is created meanwhile is not among them.
    places = [place for place, _ in copies]
    known, artifacts = await store.read(lambda connection: (_known(connection), _artifacts(connection, layout)))
    if known.empty:
        return
    for place in places:
        if place.parent == layout.datasets:
            sha256 = place.name.partition(".")[0]
            if sha256 not in known.contents:
                await contents.remove_unused(sha256)
            continue
        uid = place.relative_to(layout.jobs).parts[0]
        if uid not in known.jobs:
            await copies.remove_below(layout.job(uid))
        elif place.parent != layout.checkpoints(uid) and place not in artifacts:
            await copies.remove(place)


def _artifacts(connection: Connection, layout: Layout) -> set[Path]:
    """Places of all artifacts."""
    columns = schema.artifacts.c
    rows = connection.execute(select(columns.job_uid, columns.attempt, columns.artifact))
    return {layout.artifacts(uid, attempt) / artifact for uid, attempt, artifact in rows}


def _known(connection: Connection) -> _Known:
    jobs = {uid: attempt > 0 for uid, attempt in connection.execute(select(schema.jobs.c.uid, schema.jobs.c.attempt))}
    rows = connection.execute(select(schema.datasets.c.uid, schema.datasets.c.sha256)).all()
    removed = connection.execute(select(func.count()).select_from(schema.removed_jobs)).scalar_one()
    return _Known(jobs, {row.uid for row in rows}, {row.sha256 for row in rows}, not (jobs or rows or removed))


def _places(layout: Layout) -> dict[str, list[Path]]:
    folders = {"job": layout.jobs, "upload": layout.uploads, "content": layout.datasets}
    return {what: sorted(folder.iterdir()) if folder.is_dir() else [] for what, folder in folders.items()}


def _remove(places: dict[str, list[Path]], known: _Known, layout: Layout) -> int:
    owners = {"job": set(known.jobs), "upload": known.datasets, "content": known.contents}
    freed = 0
    for what, found in places.items():
        for place in found:
            if place.name.partition(".")[0] in owners[what]:
                continue
            try:
                size = folder_bytes(place) if place.is_dir() else place.lstat().st_size
            except FileNotFoundError:  # removed meanwhile by whom it belonged to
                continue
            if known.empty:
                get_logger().error("files_without_a_row", kind=what, name=place.name, size_bytes=size)
                continue
            if what == "content":
                continue
            if place.is_dir():
                remove_tree(place)
            else:
                place.unlink(missing_ok=True)
            freed += _note_removed(what, place.name, size)
    for uid, begun in known.jobs.items():
        if begun and not layout.job(uid).is_dir():
            get_logger().error("job_without_files", job=uid)
    return freed


def _note_removed(kind: str, name: str, freed: int) -> int:
    get_logger().warning("leftover_removed", kind=kind, name=name, freed_bytes=freed)
    return freed
