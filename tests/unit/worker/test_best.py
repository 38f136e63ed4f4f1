# SPDX-License-Identifier: Apache-2.0
"""Early stopping, and the evaluation whose weights count."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from finetree_worker import checkpoint, evaluate, events
from finetree_worker.plan import CheckpointPlan, EvaluationPlan, Metric, TrainPlan
from worker_harness import Recorder, difference, loop_of, run, scripted, tuned, weights, weights_at


@dataclass(frozen=True)
class Story:
    """Losses of the evaluations, and the steps that training ends at and that counts."""

    losses: tuple[float | None, ...]
    last: int
    best: int
    delta: float = 0.0


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(Story((3.0, 2.0, 2.5, 2.4, 0.0), 4, 2), id="stops"),
        pytest.param(Story((3.0, 2.0, 2.5, 1.9, 2.0, 1.8), 6, 6), id="patience is renewed"),
        pytest.param(Story((3.0, 2.99, 2.98, 0.0), 3, 3, delta=0.1), id="gains below delta"),
        pytest.param(Story((3.0, None, None, 0.0), 3, 1), id="no finite loss"),
        pytest.param(Story((3.0, 2.0, 1.0, 0.9, 0.8, 5.0), 6, 5), id="the last is not the best"),
    ],
)
def test_training_stops_when_patience_is_over_and_the_best_weights_count(plan: TrainPlan, story: Story) -> None:
    stopping = EvaluationPlan(every_steps=1, early_stopping_patience=2, early_stopping_min_delta=story.delta)
    plan = replace(plan, evaluation=stopping)
    recorder = Recorder()
    loop = loop_of(plan, recorder)
    loop.run(scripted(story.losses))
    last, best = story.last, story.best
    assert len(recorder.of(events.StepMetrics)) == last
    now = {name: p.detach().clone() for name, p in loop.subject.trainable.items()}
    restored = recorder.of(events.BestRestored)
    if restored:
        assert (restored[0].step, restored[0].best_step, restored[0].early) == (last, best, last < 6)
        assert difference(now, weights_at(plan, best)) == 0.0
    else:
        assert last == best == 6


def test_a_run_that_stopped_early_does_not_go_on_when_it_is_resumed(plan: TrainPlan) -> None:
    plan = replace(plan, evaluation=EvaluationPlan(every_steps=1, early_stopping_patience=1))
    first = loop_of(plan)
    first.run(scripted([1.0, 2.0]))
    first.save_checkpoint(must=True)
    recorder = Recorder()
    second = loop_of(plan, recorder)
    assert second.restore() == 2
    second.run(scripted([]))
    assert not recorder.of(events.StepMetrics)
    assert [event.best_step for event in recorder.of(events.BestRestored)] == [1]
    assert difference(dict(second.subject.trainable), weights_at(plan, 1)) == 0.0


def test_the_best_checkpoint_is_what_is_published(plan: TrainPlan, write_rows: Callable[..., Path]) -> None:
    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    plan = replace(
        tuned(plan, epochs=20.0, learning_rate=2.0),
        evaluation=EvaluationPlan(held, metrics=(Metric.LOSS,), every_steps=1, early_stopping_patience=3),
    )
    recorder = run(plan)
    *during, after = recorder.of(events.EvalMetrics)
    best = min(during, key=lambda event: event.loss)
    assert len(during) == best.step + 3
    assert after.loss == pytest.approx(best.loss, rel=1e-5)
    published, kept = weights(plan.artifact), weights_at(plan, best.step)
    assert sorted(map(float, (t.norm() for t in published.values()))) == sorted(
        map(float, (t.norm() for t in kept.values()))
    )


def test_a_loss_that_is_not_a_number_is_never_the_best(plan: TrainPlan, write_rows: Callable[..., Path]) -> None:
    loop = loop_of(plan)
    assert not loop._is_best(None)
    assert loop.position.best_loss is None
    assert evaluate.perplexity(math.nan) is None
    assert checkpoint.best_step(plan.checkpoints_dir) is None


def test_rotation_keeps_the_newest_and_the_best(plan: TrainPlan, write_rows: Callable[..., Path]) -> None:
    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    kept = replace(
        tuned(plan, epochs=4.0, learning_rate=2.0),
        checkpoints=CheckpointPlan(every_steps=1, keep=2, keep_best=True),
        evaluation=EvaluationPlan(held, metrics=(Metric.LOSS,), every_steps=1),
    )
    recorder = run(kept)
    losses = {event.step: event.loss for event in recorder.of(events.EvalMetrics)}
    best = min((step for step in losses if 0 < step < 12), key=lambda step: (losses[step], step))
    left = {int(path.name.removeprefix("step-")) for path in plan.checkpoints_dir.glob("step-*")}
    assert left == {10, 11, best}
    assert best < 10
