# SPDX-License-Identifier: Apache-2.0
"""Sends the spans of jobs: a cursor behind each job's log, as a sink has one.

How far a job is, and what is open, is written into the store once its spans have arrived. So a collector that is down
for an hour gets everything when it is back, and a service that is killed in between sends some spans again, under the
same ids.
"""

import asyncio
import json
from typing import Any

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_runtime.errors import DomainError, NotFound, OutOfRange
from finetree_runtime.server.logging import get_logger
from finetree_runtime.server.tracing.recorded import RecordedSpan, SpanSink
from sqlalchemy import Connection, delete, insert, select

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import Change, EventLog
from finetree_trainer.outages import Pauses
from finetree_trainer.store import jobs, schema
from finetree_trainer.telemetry.spans import KINDS, JobSpans, Reached

ROUND_SECONDS = 2.0
"""Time between two rounds: spans of it are sent together."""

_KEY = "spans/"
"""What the key of a job in the table `meta` begins with."""


class SpanExport:
    """Sends the spans of every job that changes, and of those that an earlier run of the service left."""

    def __init__(self, log: EventLog, sink: SpanSink) -> None:
        self._log, self._sink = log, sink
        self._open: dict[str, JobSpans] = {}
        self._changed: set[str] = set()
        self._news = asyncio.Event()
        log.followers.append(self._on_change)

    def _on_change(self, change: Change[Any]) -> None:
        self._changed.add(change.row.uid)
        self._news.set()

    async def run(self) -> None:
        """Send spans until cancelled."""
        self._changed |= await self._log.store.read(_unfinished)
        self._news.set()
        pauses = Pauses()
        while True:
            await self._news.wait()
            await asyncio.sleep(ROUND_SECONDS)
            self._news.clear()
            if await self.send():
                pauses.reset()
            else:
                await asyncio.sleep(pauses.following())
                self._news.set()

    async def send(self) -> bool:
        """Send what there is; return whether all of it has arrived."""
        changed, self._changed = self._changed, set()
        for uid in sorted(changed):
            try:
                arrived = await self._send_job(uid)
            except NotFound:
                await self._forget(uid)
            except DomainError as error:
                get_logger().error("spans_not_sent", job=uid, reason=error.reason)
            else:
                if not arrived:
                    self._changed |= changed
                    return False
        return True

    async def _send_job(self, uid: str) -> bool:
        """Send one job's spans; return whether they have arrived."""
        job = self._open.get(uid) or await self._begin(uid)
        before = json.dumps(job.reached.to_json())
        made, ended = await self._read(uid, job)
        if made and job.sampled and not await self._sink.export(made):
            self._open[uid] = JobSpans(job.record, Reached.of_json(json.loads(before)))
            return False
        if ended:
            await self._forget(uid)
        elif made:
            await self._log.store.write(lambda connection: _save(connection, uid, job.reached))
        return True

    async def _read(self, uid: str, job: JobSpans) -> tuple[list[RecordedSpan], bool]:
        made: list[RecordedSpan] = []
        after, ended = job.reached.seq, False
        while True:
            try:
                found = await self._log.read(uid, after, mask=KINDS)
            except OutOfRange:  # retention was faster
                after = (await self._log.span(uid)).oldest_seq - 1
                continue
            for event in found.events:
                made += job.add(event)
                ended = ended or event.kind == event_pb2.EVENT_KIND_TERMINAL
            if found.covered >= found.last_seq:
                return made, ended or found.finished
            after = found.covered

    async def _begin(self, uid: str) -> JobSpans:
        row = await self._log.row(uid)
        found = await self._log.store.read(lambda connection: _load(connection, uid))
        job = self._open[uid] = JobSpans(job_pb2.Job.FromString(row.record), found)
        if found is None:  # so that a later run of the service knows of it, also when it has ended by then
            await self._log.store.write(lambda connection: _save(connection, uid, job.reached))
        return job

    async def _forget(self, uid: str) -> None:
        self._open.pop(uid, None)
        await self._log.store.write(lambda connection: _remove(connection, uid))


def _unfinished(connection: Connection) -> set[str]:
    """Uids of the jobs that live, and of those whose last spans have not been sent."""
    keys = connection.execute(select(schema.meta.c.key).where(schema.meta.c.key.startswith(_KEY))).scalars()
    return {key.removeprefix(_KEY) for key in keys} | {
        row.uid for row in jobs.in_states(connection, states.LIVE) if not row.damaged
    }


def _load(connection: Connection, uid: str) -> Reached | None:
    found = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == _KEY + uid)).scalar()
    return Reached.of_json(json.loads(found)) if found else None


def _save(connection: Connection, uid: str, reached: Reached) -> None:
    _remove(connection, uid)
    connection.execute(insert(schema.meta), {"key": _KEY + uid, "value": json.dumps(reached.to_json())})


def _remove(connection: Connection, uid: str) -> None:
    connection.execute(delete(schema.meta).where(schema.meta.c.key == _KEY + uid))
