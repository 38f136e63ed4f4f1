# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_trainer.joblog import progress

TRAIN = job_pb2.TASK_KIND_TRAIN


@pytest.mark.parametrize("shares", [progress.TRAIN_SHARES, progress.PREPARE_SHARES, progress.EVALUATE_SHARES])
def test_the_shares_of_the_phases_are_the_whole(shares):
    assert sum(share for _, share in shares) == pytest.approx(1)


def test_progress_grows_with_the_phases_and_never_goes_back():
    live = job_pb2.Job()
    seen = []
    for event in (
        event_pb2.JobEvent(phase_progress=event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_LOAD_MODEL, fraction=0.5)),
        event_pb2.JobEvent(phase_progress=event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_TRAIN, fraction=0)),
        event_pb2.JobEvent(step_metrics=event_pb2.StepMetrics(step=5, total_steps=10, loss=2.0)),
        event_pb2.JobEvent(phase_progress=event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_LOAD_MODEL, fraction=1)),
        event_pb2.JobEvent(step_metrics=event_pb2.StepMetrics(step=10, total_steps=10, loss=1.0, non_finite=False)),
        event_pb2.JobEvent(terminal=event_pb2.Terminal(state=job_pb2.JOB_STATE_SUCCEEDED)),
    ):
        progress.update(live, event, TRAIN)
        seen.append(live.progress.fraction)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert live.progress.step == 10
    assert live.metrics.loss == 1.0


def test_a_loss_that_is_not_finite_leaves_the_last_one():
    live = job_pb2.Job()
    progress.update(
        live, event_pb2.JobEvent(step_metrics=event_pb2.StepMetrics(step=1, total_steps=2, loss=3.0)), TRAIN
    )
    progress.update(
        live, event_pb2.JobEvent(step_metrics=event_pb2.StepMetrics(step=2, total_steps=2, non_finite=True)), TRAIN
    )
    assert live.metrics.loss == 3.0


def test_evaluations_and_the_best_checkpoint_are_kept():
    live = job_pb2.Job()
    progress.update(live, event_pb2.JobEvent(eval_metrics=event_pb2.EvalMetrics(loss=1.5, exact_match=0.25)), TRAIN)
    progress.update(live, event_pb2.JobEvent(checkpoint_saved=event_pb2.CheckpointSaved(step=4)), TRAIN)
    assert not live.HasField("best_checkpoint_step")
    progress.update(live, event_pb2.JobEvent(checkpoint_saved=event_pb2.CheckpointSaved(step=8, best=True)), TRAIN)
    assert (live.metrics.eval_loss, live.metrics.exact_match, live.best_checkpoint_step) == (1.5, 0.25, 8)
