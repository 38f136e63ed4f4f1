# SPDX-License-Identifier: Apache-2.0
"""Everything that the trainer stores, with its size, its age and why it must stay."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace

from finetree_api.trainer.v1 import artifact_pb2, retention_pb2
from finetree_data.weights import checkpoint
from sqlalchemy import Connection, func, select

from finetree_trainer.disk import folder_bytes
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.retention import users
from finetree_trainer.jobs.retention.policy import Kind
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.store import schema
from finetree_trainer.store.sealed import Damaged


@dataclass(frozen=True, slots=True)
class Item:
    """Something that is stored. `time` is what its age counts from, microseconds since 1970.

    `project` is "" for what projects share; `kept` says why it stays whatever its age, "" where nothing holds it.
    `expire_time` is when it goes by itself; 0 for never.
    """

    kind: Kind
    project: str
    uid: str
    part: str
    size: int
    time: int
    kept: str = ""
    expire_time: int = 0

    @property
    def name(self) -> str:
        """Resource name; of what is shared its own."""
        if not self.project:
            return self.part
        collection = "datasets" if self.kind == retention_pb2.STORAGE_KIND_DATASETS else "jobs"
        name = f"projects/{self.project}/{collection}/{self.uid}"
        child = {
            retention_pb2.STORAGE_KIND_CHECKPOINTS: "checkpoints",
            retention_pb2.STORAGE_KIND_ARTIFACTS: "artifacts",
        }.get(self.kind)
        return f"{name}/{child}/{self.part}" if child else name


@dataclass(frozen=True, slots=True)
class _JobRow:
    uid: str
    project: str
    state: int
    end_time: int
    event_bytes: int
    newest_bytes: int


class Inventory:
    """Counts what is stored."""

    def __init__(self, log: EventLog, layout: Layout, copies: Copies) -> None:
        self._log, self._layout, self._copies = log, layout, copies

    async def items(self, project: str | None = None) -> list[Item]:
        """Everything of a project, of all of them for None, and what they share."""

        def load(connection: Connection) -> tuple[list[_JobRow], list[Item], list[Item], list[users.Use]]:
            rows = _jobs(connection, project)
            return rows, _artifacts(connection, rows), _datasets(connection, project), users.uses(connection)

        rows, artifacts, datasets, used = await self._log.store.read(load)
        held = _Held(rows, used)
        found = [held.judged(item) for item in artifacts]
        found += datasets
        for row in rows:
            found += await asyncio.to_thread(self._of_job, row, held, artifacts)
        found += await asyncio.to_thread(self._token_caches)
        return found

    def _of_job(self, row: _JobRow, held: "_Held", artifacts: list[Item]) -> list[Item]:
        folder = self._layout.checkpoints(row.uid)
        kept = checkpoint.read_kept(folder)
        found = []
        for step in checkpoint.steps(folder):
            place = folder / checkpoint.folder_name(step)
            with suppress(OSError):
                item = Item(
                    retention_pb2.STORAGE_KIND_CHECKPOINTS,
                    row.project,
                    row.uid,
                    str(step),
                    folder_bytes(place),
                    place.stat().st_mtime_ns // 1000,
                    "is pinned" if step in kept.pinned else "",
                    kept.expire_times.get(step, 0),
                )
                found.append(held.judged(item))
        on_disk = {item.part for item in found}
        rest = folder_bytes(self._layout.job(row.uid))
        rest -= sum(item.size for item in found)
        for step, copy in sorted(self._copies.steps(folder).items()):
            if str(step) not in on_disk:
                pinned, expires = "is pinned" if step in kept.pinned else "", kept.expire_times.get(step, 0)
                kind = retention_pb2.STORAGE_KIND_CHECKPOINTS
                item = Item(kind, row.project, row.uid, str(step), copy.size, copy.time_ns // 1000, pinned, expires)
                found.append(held.judged(item))
        rest -= sum(item.size for item in artifacts if item.uid == row.uid)
        pinned = "has a pinned checkpoint" if any(item.kept == "is pinned" for item in found) else ""
        events = max(0, row.event_bytes - row.newest_bytes)
        job = Item(retention_pb2.STORAGE_KIND_JOBS, row.project, row.uid, "", max(0, rest), row.end_time, pinned)
        found.append(held.judged(job))
        live = "" if row.end_time else "has not ended"
        kind = retention_pb2.STORAGE_KIND_EVENTS
        found.append(Item(kind, row.project, row.uid, "", row.event_bytes, row.end_time, live or _nothing(events)))
        return found

    def _token_caches(self) -> list[Item]:
        found = []
        with suppress(OSError):
            for entry in sorted(self._layout.tokens.iterdir()):
                manifest = entry / checkpoint.MANIFEST
                with suppress(OSError):
                    used = (manifest if manifest.exists() else entry).stat().st_mtime_ns // 1000
                    kind = retention_pb2.STORAGE_KIND_TOKEN_CACHES
                    found.append(Item(kind, "", "", entry.name, folder_bytes(entry), used))
        return found


class _Held:
    """What may not go, by the names of jobs and of what they made."""

    def __init__(self, rows: list[_JobRow], used: list[users.Use]) -> None:
        self._live = {row.uid for row in rows if row.state not in states.TERMINAL}
        self._used: dict[str, str] = defaultdict(str)
        for use in used:
            self._used[use.used] = use.user
            self._used[use.used.partition("/artifacts/")[0].partition("/checkpoints/")[0]] = use.user

    def judged(self, item: Item) -> Item:
        user = self._used.get(item.name)
        why = item.kept or ("its job has not ended" if item.uid in self._live else "") or (user and f"{user} uses it")
        return replace(item, kept=why or "")


def _nothing(size: int) -> str:
    return "" if size else "is the newest part of its log"


def _jobs(connection: Connection, project: str | None) -> list[_JobRow]:
    jobs, blocks = schema.jobs.c, schema.event_blocks.c
    sizes = func.coalesce(func.sum(func.length(blocks.payload)), 0)
    query = select(jobs.uid, jobs.project, jobs.state, jobs.end_time, sizes, func.max(blocks.last_seq))
    query = query.outerjoin(schema.event_blocks, blocks.job_uid == jobs.uid).group_by(jobs.uid).order_by(jobs.uid)
    if project is not None:
        query = query.where(jobs.project == project)
    newest = select(func.length(blocks.payload)).where(blocks.job_uid == jobs.uid).order_by(blocks.first_seq.desc())
    last = select(jobs.uid, newest.limit(1).scalar_subquery())
    of_newest = {uid: int(size or 0) for uid, size in connection.execute(last)}
    return [
        _JobRow(uid, own, state, end_time, int(size), of_newest.get(uid, 0))
        for uid, own, state, end_time, size, _ in connection.execute(query)
    ]


def _artifacts(connection: Connection, rows: list[_JobRow]) -> list[Item]:
    own = {row.uid: row.project for row in rows}
    artifacts = schema.artifacts.c
    query = select(artifacts.job_uid, artifacts.artifact, artifacts.create_time, artifacts.record)
    return [
        Item(
            retention_pb2.STORAGE_KIND_ARTIFACTS,
            own[row.job_uid],
            row.job_uid,
            row.artifact,
            artifact_pb2.Artifact.FromString(row.record).size_bytes,
            row.create_time,
            "its record is damaged" if isinstance(row.record, Damaged) else "",
        )
        for row in connection.execute(query)
        if row.job_uid in own
    ]


def _datasets(connection: Connection, project: str | None) -> list[Item]:
    datasets, jobs = schema.datasets.c, schema.jobs.c
    query = select(datasets.uid, datasets.project, datasets.size_bytes, datasets.committed_bytes, datasets.update_time)
    if project is not None:
        query = query.where(datasets.project == project)
    used: dict[str, int] = defaultdict(int)
    live: set[str] = set()
    for uids in (jobs.dataset_uid, jobs.evaluation_uid):
        for uid, state, time in connection.execute(
            select(uids, jobs.state, func.max(jobs.update_time)).where(uids != "").group_by(uids, jobs.state)
        ):
            used[uid] = max(used[uid], time)
            live |= set() if state in states.TERMINAL else {uid}
    return [
        Item(
            retention_pb2.STORAGE_KIND_DATASETS,
            row.project,
            row.uid,
            "",
            row.committed_bytes,
            max(row.update_time, used[row.uid]),
            "a job that has not ended reads it" if row.uid in live else "",
        )
        for row in connection.execute(query)
    ]
