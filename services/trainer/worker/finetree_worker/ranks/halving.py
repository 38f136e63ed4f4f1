# SPDX-License-Identifier: Apache-2.0
"""Smaller micro-batches after memory ran out: half of the one that did not fit.

One device, and ranks with whole weights, repeat the step at once. Ranks in lockstep cannot, since the others wait in
the middle of a pass for the one whose memory ran out: the attempt ends, and the next one begins with the half.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from finetree_api.trainer.v1 import event_pb2
from finetree_data.durable_files import make_folder, replace_file
from finetree_data.weights.checkpoint import read_json
from google.rpc import error_details_pb2

from finetree_worker.data.packing import Limit
from finetree_worker.errors import Interrupted, MemoryExhaustedError
from finetree_worker.events.envelope import Reporter
from finetree_worker.plan import Plan
from finetree_worker.ranks.alone import Lacking
from finetree_worker.ranks.launch import RankFailedError

FILE = "micro-batch.json"
"""What fits according to an earlier attempt, beside the checkpoints of a job."""
_NUMBERS = ("step", "previous", "current", "previous_rows", "current_rows")


def halved(
    limit: Limit, lacking: Lacking, *, step: int, packing: bool, row_tokens: int
) -> tuple[Limit, event_pb2.BatchSizeChanged]:
    """Return the limit that halves a micro-batch of at least two rows, which may have been far below `limit`.

    `step` is counted from 0, `row_tokens` is the longest row that the plan allows. The message tells of it.
    """
    count = lacking.rows // 2
    if packing:
        smaller, rows = Limit(limit.rows, max(lacking.longest, lacking.held // 2)), {}
    else:
        smaller = Limit(count, count * row_tokens)
        rows = {"previous_rows": limit.rows, "current_rows": count}
    change = event_pb2.BatchSizeChanged(
        step=step + 1, previous=limit.tokens, current=smaller.tokens, reason="OUT_OF_MEMORY", **rows
    )
    return smaller, change


def largest(plan: Plan) -> Limit:
    """Return the plan's largest micro-batch, or the smaller one that an earlier attempt has left."""
    rows = plan.optimization.micro_batch_size
    whole = Limit(rows, rows * plan.data.sequence_length)
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = read_json(plan.checkpoints_dir / FILE)
        return whole.within(Limit(max(1, int(found["rows"])), max(1, int(found["tokens"]))))
    return whole


def as_metadata(change: event_pb2.BatchSizeChanged) -> dict[str, str]:
    """Return what an error that ends the attempt says of the micro-batch to try next."""
    return {name: str(getattr(change, name)) for name in _NUMBERS}


@contextmanager
def halves_next(plan: Plan, reporter: Reporter) -> Iterator[None]:
    """End an attempt whose micro-batch did not fit on some rank like an interruption; the next one takes a smaller one.

    Raises Interrupted in place of such an error. Where a single row does not fit, or the smaller size cannot be noted,
    the error stays.
    """
    try:
        yield
    except (MemoryExhaustedError, RankFailedError) as error:
        change = _change(error)
        if change is None or not _note(plan, change):
            raise
        text = (
            f"Memory ran out in a micro-batch of step {change.step}, in which the ranks wait for one another: the next "
            f"attempt takes micro-batches of at most {change.current} tokens."
        )
        reporter.emit(change, message=text)
        raise Interrupted(text) from error


def _change(error: MemoryExhaustedError | RankFailedError) -> event_pb2.BatchSizeChanged | None:
    told = error.metadata if isinstance(error, MemoryExhaustedError) else _metadata(error)
    if any(name not in told for name in _NUMBERS):
        return None
    numbers = {name: int(told[name]) for name in _NUMBERS}
    return event_pb2.BatchSizeChanged(reason="OUT_OF_MEMORY", **numbers)


def _metadata(error: RankFailedError) -> dict[str, str]:
    info = error_details_pb2.ErrorInfo()
    for detail in error.outcome.error.details:
        if detail.Unpack(info):
            return dict(info.metadata)
    return {}


def _note(plan: Plan, change: event_pb2.BatchSizeChanged) -> bool:
    """Note what the next attempt begins with; return whether it is less than this one's."""
    before, rows = largest(plan), change.current_rows or plan.optimization.micro_batch_size
    smaller = before.within(Limit(rows, change.current))
    if smaller == before:
        return False
    text = json.dumps({"rows": smaller.rows, "tokens": smaller.tokens}) + "\n"
    try:
        make_folder(plan.checkpoints_dir)
        replace_file(plan.checkpoints_dir / FILE, text.encode())
    except OSError:
        return False
    return True
