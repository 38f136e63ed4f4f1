# SPDX-License-Identifier: Apache-2.0
"""Checkpoints fit any number of ranks, and a pause is one rank's word to all."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import Cancelled
from finetree_worker.plan import CheckpointPlan, Plan
from worker_harness import METHODS, Recorder, difference, elsewhere, pausing, run, tuned, weights, weights_at

pytestmark = [pytest.mark.slow(20), pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_goes_on_with_other_ranks_and_ends_in_the_same_weights(
    plan: Plan, together: Callable[..., Recorder], tmp_path: Path, kind: str
) -> None:
    """Two ranks with divided weights, then one device, then four with whole ones; optimizer states go along."""
    plan = replace(
        tuned(plan, warmup_ratio=0.0), method=METHODS[kind], checkpoints=CheckpointPlan(every_steps=2, keep=9)
    )
    moved = elsewhere(plan, tmp_path / "moved")
    one = run(plan)
    with pytest.raises(Cancelled):
        together(moved, 2, "full", pausing(2))
    alone = pausing(4)
    with pytest.raises(Cancelled):
        run(moved, alone)
    last = together(moved, 4, "replicated")
    assert alone.of(event_pb2.AttemptStarted)[0].restored_step == 2
    assert last.of(event_pb2.AttemptStarted)[0].restored_step == 4
    assert [recorder.alerts() for recorder in (alone, last)] == [["EXECUTION_PLAN_CHANGED"]] * 2
    for step in (2, 4):
        assert difference(weights_at(plan, step), weights_at(moved, step)) < 1e-4
    assert difference(weights(plan.artifact), weights(moved.artifact)) < 1e-4
    losses = [[step.loss for step in recorder.of(event_pb2.StepMetrics)] for recorder in (one, last)]
    assert losses[1] == pytest.approx(losses[0][4:], rel=1e-4)


def test_a_run_that_went_on_divided_has_the_files_of_one_device(
    plan: Plan, together: Callable[..., Recorder], tmp_path: Path
) -> None:
    plan = replace(plan, checkpoints=CheckpointPlan(every_steps=3))
    divided = elsewhere(plan, tmp_path / "divided")
    with pytest.raises(Cancelled):
        run(divided, pausing(3))
    together(divided, 2, "full")
    run(plan)
    one, two = ({file.name for file in (each.checkpoints_dir / "step-00000003").iterdir()} for each in (plan, divided))
    assert one == two
    assert difference(weights(plan.artifact), weights(divided.artifact)) < 1e-4
