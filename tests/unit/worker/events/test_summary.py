# SPDX-License-Identifier: Apache-2.0
"""The numbers of an attempt at its end."""

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_worker.events.summary import Summary


def step(number, loss):
    return event_pb2.StepMetrics(
        step=number, loss=loss, step_seconds=1.0, processed_tokens=100 * number, memory_bytes=1000 + number
    )


def test_the_summary_is_what_the_attempt_has_shown():
    summary, train = Summary(), job_pb2.JOB_PHASE_TRAIN
    summary.add(event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_LOAD_MODEL), 0.5)
    summary.add(event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_LOAD_MODEL, fraction=1.0), 2.0)
    summary.add(event_pb2.PhaseProgress(phase=train), 2.0)
    summary.add(event_pb2.EvalMetrics(step=0, exact_match=0.1), 2.5)
    for number in range(1, 13):
        summary.add(step(number, float(number)), 3.0)
    summary.add(event_pb2.EvalMetrics(step=12, exact_match=0.9), 8.0)
    summary.add(event_pb2.PhaseProgress(phase=train, fraction=1.0), 9.0)
    made = summary.message(20.0)
    assert (made.first_loss, made.final_loss) == (1.0, 7.5)
    assert (made.exact_match_before, made.exact_match_after) == (0.1, 0.9)
    assert (made.steps, made.processed_tokens, made.peak_memory_bytes) == (12, 1200, 1012)
    assert (made.median_step_seconds, made.total_seconds) == (1.0, 20.0)
    assert [(each.phase, each.seconds) for each in made.phases] == [(job_pb2.JOB_PHASE_LOAD_MODEL, 1.5), (train, 7.0)]


def test_a_step_that_was_not_finite_counts_without_its_loss():
    summary = Summary()
    summary.add(step(1, None), 1.0)
    summary.add(step(2, 3.0), 2.0)
    made = summary.message(2.0)
    assert (made.steps, made.first_loss, made.final_loss) == (2, 3.0, 3.0)


def test_an_attempt_without_a_step_has_no_losses():
    made = Summary().message(1.0)
    assert not made.HasField("first_loss")
    assert not made.HasField("final_loss")
    assert not made.HasField("exact_match_after")
