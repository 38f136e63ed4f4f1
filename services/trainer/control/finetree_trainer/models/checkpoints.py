# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of jobs: what the log says of them, and what is left of them on the disk."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from finetree_api.trainer.v1 import checkpoint_pb2, event_pb2, job_pb2
from finetree_data.objects.units import Manifest
from finetree_data.weights import checkpoint
from finetree_data.weights.errors import WeightsError
from sqlalchemy import Connection

from finetree_trainer.clock import timestamp
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.layout import Layout
from finetree_trainer.objects.copies import Copies
from finetree_trainer.store import events, jobs

READ_BLOCKS = 64
"""Blocks of events of one read from the database."""
_SAVED = events.kinds_mask([event_pb2.EVENT_KIND_CHECKPOINT_SAVED, event_pb2.EVENT_KIND_EVAL_METRICS])
_STEPS = events.kinds_mask([event_pb2.EVENT_KIND_STEP_METRICS])
_MEASURED = (("loss", "eval_loss"), ("exact_match", "exact_match"), ("token_accuracy", "token_accuracy"))
"""Fields of EvalMetrics, and those of Checkpoint that have their values."""


class Checkpoints:
    """Lists checkpoints."""

    def __init__(self, log: EventLog, layout: Layout, copies: Copies) -> None:
        self._log, self._layout, self._copies = log, layout, copies

    async def page(self, uid: str, *, after: int, limit: int, deleted: bool) -> list[checkpoint_pb2.Checkpoint]:
        """List at most `limit` checkpoints of a job of steps after `after`, in their order.

        With `deleted` those too that are whole neither on the disk nor in the object store.

        Raises NotFound JOB_NOT_FOUND, FailedPrecondition EVENTS_DAMAGED.
        """
        row = await self._log.row(uid)
        await self._copies.catch_up(self._layout.checkpoints(uid))
        stored = self._copies.steps(self._layout.checkpoints(uid))
        there = {step: _stored(step, copy) for step, copy in stored.items() if step > after}
        there |= await asyncio.to_thread(_on_disk, self._layout.checkpoints(uid), after)

        def load(connection: Connection) -> list[checkpoint_pb2.Checkpoint]:
            reach = jobs.span(connection, uid)
            if reach is None:
                return []
            logged, evaluated = _logged(connection, uid, reach)
            steps = sorted(there.keys() | (logged.keys() if deleted else set()))
            chosen = [step for step in steps if step > after][:limit]
            return [
                _described(
                    there.get(step),
                    logged.get(step),
                    evaluated.get(step),
                    loss=_loss(connection, uid, logged.get(step), reach) if step in logged else None,
                )
                for step in chosen
            ]

        found = await self._log.store.read(load)
        kept = await asyncio.to_thread(checkpoint.read_kept, self._layout.checkpoints(uid))
        snapshot = job_pb2.Job.FromString(row.snapshot)
        for each in found:
            each.name = f"{row.name}/checkpoints/{each.step}"
            each.pinned = each.available and each.step in kept.pinned
            if each.available and each.step in kept.expire_times:
                each.expire_time.CopyFrom(timestamp(kept.expire_times[each.step]))
            each.best = snapshot.HasField("best_checkpoint_step") and each.step == snapshot.best_checkpoint_step
        return found


def _on_disk(folder: Path, after: int) -> dict[int, checkpoint_pb2.Checkpoint]:
    """Checkpoints that are whole, by step."""
    found = {}
    for step in checkpoint.steps(folder):
        if step <= after:
            continue
        place = folder / checkpoint.folder_name(step)
        try:
            read, changed = checkpoint.read_checkpoint(place), place.stat().st_mtime_ns
        except (WeightsError, OSError):
            continue  # damaged, or rotated a moment ago
        described = checkpoint_pb2.Checkpoint(step=step, available=True, sha256=read.sha256, size_bytes=read.size_bytes)
        described.create_time.FromNanoseconds(changed)
        found[step] = described
    return found


def _stored(step: int, copy: Manifest) -> checkpoint_pb2.Checkpoint:
    """Describe a checkpoint by its copy."""
    sha256 = copy.files[checkpoint.MANIFEST].sha256
    described = checkpoint_pb2.Checkpoint(step=step, available=True, sha256=sha256, size_bytes=copy.size)
    described.create_time.FromNanoseconds(copy.time_ns)
    return described


def _logged(
    connection: Connection, uid: str, reach: jobs.Span
) -> tuple[dict[int, event_pb2.JobEvent], dict[int, event_pb2.EvalMetrics]]:
    """Newest event of each checkpoint and newest evaluation after each step, by step."""
    saved: dict[int, event_pb2.JobEvent] = {}
    evaluated: dict[int, event_pb2.EvalMetrics] = {}
    after = reach.oldest_seq - 1
    while after < reach.last_seq:
        found, after = events.read_after(
            connection, uid, after, last_seq=reach.last_seq, mask=_SAVED, blocks=READ_BLOCKS
        )
        for event in found:
            if event.kind == event_pb2.EVENT_KIND_CHECKPOINT_SAVED:
                saved[event.checkpoint_saved.step] = event
            else:
                evaluated[event.eval_metrics.step] = event.eval_metrics
    return saved, evaluated


def _loss(connection: Connection, uid: str, saved: event_pb2.JobEvent | None, reach: jobs.Span) -> float | None:
    """Loss of the step that a checkpoint was saved after: no other step's metrics are between the two events."""
    if saved is None:
        return None
    before: Iterable[event_pb2.JobEvent]
    before, _ = events.read_before(connection, uid, saved.seq, after=reach.oldest_seq - 1, mask=_STEPS, blocks=1)
    metrics = next((event.step_metrics for event in before), None)
    if metrics is None or metrics.step != saved.checkpoint_saved.step or not metrics.HasField("loss"):
        return None
    return metrics.loss


def _described(
    there: checkpoint_pb2.Checkpoint | None,
    saved: event_pb2.JobEvent | None,
    evaluated: event_pb2.EvalMetrics | None,
    *,
    loss: float | None,
) -> checkpoint_pb2.Checkpoint:
    described = checkpoint_pb2.Checkpoint()
    if saved is not None:
        event = saved.checkpoint_saved
        described.step, described.sha256, described.size_bytes = event.step, event.sha256, event.size_bytes
        described.attempt = saved.attempt
    if there is not None:
        # What lies there is the truth, whoever reported it.
        described.MergeFrom(there)
    if saved is not None:
        described.create_time.CopyFrom(saved.event_time)
    if loss is not None:
        described.loss = loss
    for source, field in _MEASURED if evaluated is not None else ():
        if evaluated is not None and evaluated.HasField(source):  # type: ignore[arg-type]  # names from the table
            setattr(described, field, getattr(evaluated, source))
    return described
