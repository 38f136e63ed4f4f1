# SPDX-License-Identifier: Apache-2.0
"""A limit of the job ends training: what there is becomes an artifact that peft loads and that answers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled
from finetree_worker.plan import CheckpointPlan, EvaluationPlan, Metric, Plan
from finetree_worker.training import checkpoint
from peft import PeftModel
from transformers import AutoModelForCausalLM
from worker_harness import Recorder, difference, held_out, loop_of, pausing, run, scripted, weights_at

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def finishing(step: int) -> Recorder:
    """A recorder whose control says after a step that a limit is reached."""
    return Recorder({step: Signal.FINISH})


def answers(plan: Plan) -> bool:
    """Whether peft loads the artifact on its base, and it answers otherwise than the base."""
    base = AutoModelForCausalLM.from_pretrained(plan.base.folder)
    asked = torch.arange(1, 9).unsqueeze(0)
    with torch.no_grad():
        before = base(asked).logits
        after = PeftModel.from_pretrained(base, plan.artifact)(asked).logits
    return bool(torch.isfinite(after).all()) and not torch.equal(before, after)


def test_the_last_weights_are_published_and_no_step_is_taken_after_the_limit(plan: Plan) -> None:
    recorder = run(plan, finishing(3))
    assert (recorder.outcome.steps, recorder.outcome.limited, recorder.outcome.stopped_early) == (3, True, False)
    assert [saved.step for saved in recorder.of(event_pb2.CheckpointSaved)] == [3]
    assert len(recorder.of(event_pb2.ArtifactReady)) == 1
    assert answers(plan)
    kept = checkpoint.newest(plan.checkpoints_dir, plan.numerics_hash())
    assert kept is not None
    assert kept.position.stopped, "whoever goes on from it does not train further"


def test_a_run_that_was_resumed_is_published_too_and_equals_its_checkpoint(plan: Plan) -> None:
    with pytest.raises(Cancelled):
        run(plan, pausing(2))
    recorder = Recorder(asked=Signal.FINISH)
    run(plan, recorder)
    assert (recorder.outcome.steps, recorder.outcome.limited) == (2, True)
    assert not recorder.of(event_pb2.StepMetrics)
    assert answers(plan)


def test_before_the_first_step_there_is_nothing_to_publish(plan: Plan) -> None:
    with pytest.raises(Cancelled):
        run(plan, Recorder(asked=Signal.FINISH))
    assert not plan.artifact.exists()


def test_with_early_stopping_the_best_weights_are_published(plan: Plan) -> None:
    watched = replace(plan, evaluation=EvaluationPlan(every_steps=1, early_stopping_patience=5))
    recorder = finishing(3)
    loop = loop_of(watched, recorder)
    trained = loop.run(scripted([2.0, 1.0, 3.0]))
    assert (trained.best_step, trained.limited, trained.stopped_early) == (2, True, False)
    assert recorder.alerts() == ["BEST_RESTORED"]
    assert "a limit of the job ended training after step 3; the weights of step 2 are kept" in recorder.messages[-1]
    assert difference(dict(loop.subject.trainable), weights_at(watched, 2)) == 0.0


def test_a_limit_during_the_last_evaluation_leaves_a_whole_run_without_it(
    plan: Plan, write_rows: Callable[..., Path]
) -> None:
    class AfterTraining(Recorder):
        def emit(self, payload: Any, **more: Any) -> None:
            super().emit(payload, **more)
            if isinstance(payload, event_pb2.PhaseProgress) and payload.phase == job_pb2.JOB_PHASE_EVALUATE_AFTER:
                self.asked = Signal.FINISH

    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    recorder = run(held_out(plan, held, metrics=(Metric.LOSS,)), AfterTraining())
    assert (recorder.outcome.steps, recorder.outcome.limited) == (6, False)
    assert not recorder.of(event_pb2.EvalMetrics)
    assert answers(plan)


@pytest.mark.parametrize(("lost", "saved"), [(1e-6, [1, 2, 3, 4, 5]), (3600.0, [])])
def test_checkpoints_are_as_frequent_as_the_time_that_may_be_lost(plan: Plan, lost: float, saved: list[int]) -> None:
    rare = replace(plan, checkpoints=CheckpointPlan(every_steps=0, keep=9, max_lost_seconds=lost))
    assert [each.step for each in run(rare).of(event_pb2.CheckpointSaved)] == saved
