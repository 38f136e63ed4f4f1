# SPDX-License-Identifier: Apache-2.0
"""A base that is kept from task to task: results are those of a base of one's own, and what a task leaves is undone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.models.bases import Bases
from finetree_worker.plan import Plan, Precision
from finetree_worker.training.run import train
from worker_harness import METHODS, Recorder, elsewhere, held_out, run, tuned

CPU = torch.device("cpu")


def run_on(bases: Bases, plan: Plan, recorder: Recorder | None = None) -> Recorder:
    recorder = recorder or Recorder()
    recorder.outcome = train(plan, recorder, recorder, bases)
    return recorder


def losses(recorder: Recorder) -> list[float]:
    return [step.loss for step in recorder.of(event_pb2.StepMetrics)]


def files(folder: Path) -> dict[str, bytes]:
    """An artifact's files but its card, which has the time of the run."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name not in _OF_THE_RUN}


_OF_THE_RUN = ("README.md", "training.json", ".finetree.json")


def started(recorder: Recorder) -> Any:
    return recorder.of(event_pb2.AttemptStarted)[0]


# Each trial follows one of another method, which has left something else in the base.
FOLLOWING = {
    "lora": "houlsby",
    "dora": "lora",
    "prefix": "lora",
    "houlsby": "prefix",
    "parallel": "houlsby",
    "nf4": "nf4-single",
    "int8": "int8",
}


@pytest.mark.parametrize("kind", FOLLOWING)
def test_a_run_on_a_base_that_another_run_used_is_equal_to_the_last_bit(kind: str, plan: Plan, tmp_path: Path) -> None:
    chosen = tuned(replace(plan, method=METHODS[kind]), precision=Precision.BF16, gradient_checkpointing=False)
    chosen = held_out(chosen, fraction=0.2, before_training=True, metrics=("loss",))
    before = replace(elsewhere(chosen, tmp_path / "before"), method=METHODS[kind if kind == "nf4" else FOLLOWING[kind]])
    if not kind.startswith("prefix") and FOLLOWING[kind] != "prefix":
        before = tuned(before, gradient_checkpointing=True, seed=5)
    alone = run(replace(elsewhere(chosen, tmp_path / "alone")))
    bases = Bases(keep=True)

    run_on(bases, before)
    assert bases.settle()
    second = run_on(bases, elsewhere(chosen, tmp_path / "second"))
    assert bases.settle()

    assert bases.loads == 1
    assert started(second).base_reused
    assert "the base was loaded already" in second.messages[second.events.index(started(second))]
    assert losses(second) == losses(alone)
    assert files(tmp_path / "second" / "artifact") == files(tmp_path / "alone" / "artifact")
