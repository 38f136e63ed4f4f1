# SPDX-License-Identifier: Apache-2.0
"""What the next attempt begins with where ranks in lockstep lacked memory, and when there is no next attempt."""

from collections.abc import Callable
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.data.packing import Limit
from finetree_worker.errors import Interrupted, MemoryExhaustedError, TaskError
from finetree_worker.plan import Plan
from finetree_worker.process import outcome
from finetree_worker.ranks.alone import Lacking
from finetree_worker.ranks.halving import FILE, as_metadata, halved, halves_next, largest
from finetree_worker.ranks.launch import RankFailedError
from worker_harness import Recorder, tuned


def lacking(plan: Plan, rows: int, longest: int, held: int) -> MemoryExhaustedError:
    """The error of a rank in lockstep whose memory did not hold a micro-batch."""
    of, packing = Lacking(rows, longest, held), plan.optimization.packing
    _, change = halved(largest(plan), of, step=4, packing=packing, row_tokens=plan.data.sequence_length)
    return MemoryExhaustedError("OUT_OF_MEMORY", "No.", metadata=as_metadata(change))


def told(error: MemoryExhaustedError) -> RankFailedError:
    """The error as the speaker gets it of another rank."""
    return RankFailedError(1, outcome.failed(error))


def attempt(plan: Plan, error: Exception) -> list[event_pb2.BatchSizeChanged]:
    """An attempt that ends with an error; what it said of micro-batches before it was interrupted."""
    recorder = Recorder()
    with pytest.raises(Interrupted), halves_next(plan, recorder):
        raise error
    return list(recorder.of(event_pb2.BatchSizeChanged))


@pytest.mark.parametrize("of", [lambda error: error, told], ids=["own", "another rank's"])
def test_packed_micro_batches_are_halved_from_attempt_to_attempt(
    plan: Plan, of: Callable[[MemoryExhaustedError], Exception]
) -> None:
    assert largest(plan) == Limit(4, 512)
    (change,) = attempt(plan, of(lacking(plan, 4, 100, 380)))
    assert (change.step, change.previous, change.current) == (5, 512, 190)
    assert largest(plan) == Limit(4, 190)
    (change,) = attempt(plan, of(lacking(plan, 2, 100, 180)))
    assert (change.previous, change.current, change.previous_rows) == (190, 100, 0)
    assert largest(plan) == Limit(4, 100)


def test_rows_of_padded_micro_batches_are_halved(plan: Plan) -> None:
    plan = tuned(plan, packing=False)
    (change,) = attempt(plan, lacking(plan, 3, 100, 300))
    assert (change.previous_rows, change.current_rows, change.current) == (4, 1, 128)
    assert largest(plan) == Limit(1, 128)


def test_an_error_without_a_smaller_micro_batch_stays(plan: Plan) -> None:
    """One row that does not fit, other errors, and what would not be less than before."""
    attempt(plan, lacking(plan, 4, 100, 380))
    kept = (plan.checkpoints_dir / FILE).read_bytes()
    same = event_pb2.BatchSizeChanged(step=5, previous=190, current=190)
    for error in (
        MemoryExhaustedError("OUT_OF_MEMORY", "No.", metadata={"rows": "2"}),
        told(MemoryExhaustedError("OUT_OF_MEMORY", "No.")),
        MemoryExhaustedError("OUT_OF_MEMORY", "No.", metadata=as_metadata(same)),
        TaskError("OTHER", "No."),
    ):
        recorder = Recorder()
        with pytest.raises(type(error)) as raised, halves_next(plan, recorder):
            raise error
        assert raised.value is error
        assert not recorder.of(event_pb2.BatchSizeChanged)
        assert (plan.checkpoints_dir / FILE).read_bytes() == kept


def test_an_error_stays_where_the_smaller_size_cannot_be_noted(plan: Plan) -> None:
    plan.checkpoints_dir.parent.mkdir(parents=True, exist_ok=True)
    plan.checkpoints_dir.write_text("a file in the place of the folder")
    with pytest.raises(MemoryExhaustedError), halves_next(plan, Recorder()):
        raise lacking(plan, 4, 100, 380)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": "x", "tokens": 1}', "\x00", '{"rows": 9, "tokens": 9999}'])
def test_a_note_that_is_damaged_or_larger_than_the_plan_changes_nothing(plan: Plan, text: str) -> None:
    folder: Path = plan.checkpoints_dir
    folder.mkdir(parents=True)
    (folder / FILE).write_text(text)
    assert largest(plan) == Limit(4, 512)
