# SPDX-License-Identifier: Apache-2.0
"""Early stopping, and the evaluation whose weights count."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import DataError
from finetree_worker.methods.full import Full
from finetree_worker.plan import CheckpointPlan, EvaluationPlan, Metric, Plan, Schedule
from finetree_worker.training import evaluate
from worker_harness import Recorder, difference, elsewhere, held_out, loop_of, run, scripted, tuned, weights, weights_at


@dataclass(frozen=True)
class Story:
    """What evaluations give, and the steps that training ends at and that counts."""

    values: tuple[float | None, ...]
    last: int
    best: int
    delta: float = 0.0
    by: Metric = Metric.LOSS


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(Story((3.0, 2.0, 2.5, 2.4, 0.0), 4, 2), id="stops"),
        pytest.param(Story((3.0, 2.0, 2.5, 1.9, 2.0, 1.8), 6, 6), id="patience is renewed"),
        pytest.param(Story((3.0, 2.99, 2.98, 0.0), 3, 3, delta=0.1), id="gains below delta"),
        pytest.param(Story((3.0, None, None, 0.0), 3, 1), id="no finite loss"),
        pytest.param(Story((3.0, 2.0, 1.0, 0.9, 0.8, 5.0), 6, 5), id="the last is not the best"),
        pytest.param(Story((0.1, 0.6, 0.6, 0.5, 1.0), 4, 2, by=Metric.EXACT_MATCH), id="exact match: higher is better"),
        pytest.param(Story((0.5, 0.51, 0.52, 0.9), 3, 3, 0.1, by=Metric.TOKEN_ACCURACY), id="accuracy: below delta"),
    ],
)
def test_training_stops_when_patience_is_over_and_the_best_weights_count(plan: Plan, story: Story) -> None:
    plan = replace(plan, evaluation=EvaluationPlan(every_steps=1, early_stopping_patience=2, best_by=story.by))
    plan = replace(plan, evaluation=replace(plan.evaluation, early_stopping_min_delta=story.delta))
    recorder = Recorder()
    loop = loop_of(plan, recorder)
    trained = loop.run(scripted(story.values))
    last, best = story.last, story.best
    assert len(recorder.of(event_pb2.StepMetrics)) == last
    now = {name: p.detach().clone() for name, p in loop.subject.trainable.items()}
    restored = recorder.of(event_pb2.Alert)
    if restored:
        assert recorder.alerts() == ["EARLY_STOPPED" if last < 6 else "BEST_RESTORED"]
        metric = f"{story.by.value.replace('_', ' ')} {story.values[best - 1]:.4g}"
        assert f"after step {last}; the weights of step {best} are kept, {metric}" in restored[0].message
        assert (trained.best_step, trained.stopped_early) == (best, last < 6)
        assert difference(now, weights_at(plan, best)) == 0.0
    else:
        assert last == best == 6
        assert (trained.best_step, trained.stopped_early) == (0, False)


def test_a_run_that_stopped_early_does_not_go_on_when_it_is_resumed(plan: Plan) -> None:
    plan = replace(plan, evaluation=EvaluationPlan(every_steps=1, early_stopping_patience=1))
    first = loop_of(plan)
    first.run(scripted([1.0, 2.0]))
    first.save_checkpoint(must=True)
    recorder = Recorder()
    second = loop_of(plan, recorder)
    assert second.restore() == 2
    assert second.run(scripted([])).best_step == 1
    assert not recorder.of(event_pb2.StepMetrics)
    assert recorder.alerts() == ["EARLY_STOPPED"]
    assert difference(dict(second.subject.trainable), weights_at(plan, 1)) == 0.0


def test_the_best_checkpoint_is_what_is_published(plan: Plan, write_rows: Callable[..., Path]) -> None:
    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    plan = tuned(plan, epochs=20.0, learning_rate=2.0)
    plan = held_out(plan, held, metrics=(Metric.LOSS,), every_steps=1, early_stopping_patience=3)
    recorder = run(plan)
    *during, after = recorder.of(event_pb2.EvalMetrics)
    assert (after.rows, len({each.rows_sha256 for each in (*during, after)})) == (1, 1)
    assert not after.HasField("loss_standard_error")
    best = min(during, key=lambda event: event.loss)
    assert len(during) == best.step + 3
    assert after.loss == pytest.approx(best.loss, rel=1e-5)
    published, kept = weights(plan.artifact), weights_at(plan, best.step)
    assert sorted(map(float, (t.norm() for t in published.values()))) == sorted(
        map(float, (t.norm() for t in kept.values()))
    )


def test_a_loss_that_is_not_a_number_is_never_the_best(plan: Plan, write_rows: Callable[..., Path]) -> None:
    loop = loop_of(plan)
    assert not loop._is_best(None)
    assert loop.position.best_value is None
    assert evaluate.perplexity(math.nan) is None
    assert loop.position.best_step == 0


def test_rotation_keeps_the_newest_and_the_best(plan: Plan, write_rows: Callable[..., Path]) -> None:
    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    kept = replace(
        tuned(plan, epochs=4.0, learning_rate=2.0),
        checkpoints=CheckpointPlan(every_steps=1, keep=2, keep_best=True),
    )
    recorder = run(held_out(kept, held, metrics=(Metric.LOSS,), every_steps=1))
    losses = {event.step: event.loss for event in recorder.of(event_pb2.EvalMetrics)}
    best = min((step for step in losses if 0 < step < 12), key=lambda step: (losses[step], step))
    left = {int(path.name.removeprefix("step-")) for path in plan.checkpoints_dir.glob("step-*")}
    assert left == {10, 11, best}
    assert best < 10


ANSWERED = [{"prompt": f"say {c}", "completion": c * 2} for c in "abcd"]


def answering(plan: Plan, write_rows: Callable[..., Path], **evaluation: Any) -> Plan:
    """Four questions that are learned by heart within forty steps."""
    plan = tuned(plan, epochs=None, max_steps=60, learning_rate=5e-3, batch_size=2, schedule=Schedule.CONSTANT)
    plan = replace(plan, method=Full(), data=replace(plan.data, train=write_rows(ANSWERED)))
    exact = {"metrics": (Metric.EXACT_MATCH,), "best_by": Metric.EXACT_MATCH}
    return held_out(plan, write_rows(ANSWERED, "eval.jsonl"), max_new_tokens=4, every_steps=10, **exact, **evaluation)


def test_the_evaluation_that_answers_best_is_what_is_published(plan: Plan, write_rows: Callable[..., Path]) -> None:
    recorder = run(answering(plan, write_rows, early_stopping_patience=9))
    *during, after = recorder.of(event_pb2.EvalMetrics)
    assert len({each.prompts_sha256 for each in (*during, after)} - {""}) == 1
    assert [event.examples for event in during] == [4] * 6
    best = max(during, key=lambda event: event.exact_match)
    assert during[0].exact_match < best.exact_match == after.exact_match == 1.0
    assert recorder.outcome.best_step == best.step
    assert recorder.of(event_pb2.Alert)[-1].message.endswith("exact match 1")


def test_answers_in_the_middle_of_a_training_change_nothing_of_it(
    plan: Plan, write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    asked = answering(plan, write_rows)
    silent = replace(elsewhere(asked, tmp_path / "b"), evaluation=EvaluationPlan())
    run(asked)
    run(silent)
    assert difference(weights(asked.artifact), weights(silent.artifact)) == 0.0


def test_a_best_answer_is_not_looked_for_where_nothing_is_asked(plan: Plan, write_rows: Callable[..., Path]) -> None:
    asked = answering(plan, write_rows, early_stopping_patience=1)
    text = write_rows([{"text": "no question"}], "eval.jsonl")
    with pytest.raises(DataError) as refused:
        run(replace(asked, data=replace(asked.data, held_out=text)))
    assert (refused.value.reason, refused.value.field) == ("NO_QUESTIONS", "evaluation.best_by")


def test_a_best_checkpoint_that_is_gone_is_told_and_the_last_weights_count(plan: Plan) -> None:
    plan = replace(plan, evaluation=EvaluationPlan(every_steps=1, early_stopping_patience=2))
    recorder = Recorder()
    loop = loop_of(plan, recorder)
    values = scripted((3.0, 2.0, 2.5, 2.5))

    def evaluate(step: int) -> float | None:
        if step == 4:
            (folder,) = plan.checkpoints_dir.glob("step-*2")
            shutil.rmtree(folder)
        return values(step)

    loop.run(evaluate)
    assert recorder.alerts() == ["BEST_CHECKPOINT_MISSING"]
    assert loop.position.step == 4
