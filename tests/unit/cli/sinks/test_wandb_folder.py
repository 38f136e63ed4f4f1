# SPDX-License-Identifier: Apache-2.0
"""What W&B gets of steps that a later attempt repeats."""

from finetree_api.trainer.v1 import event_pb2
from finetree_cli.sinks.wandb_folder import rows_of


def step(number: int, loss: float | None, *, at: int = 0) -> event_pb2.JobEvent:
    event = event_pb2.JobEvent(seq=number, kind=event_pb2.EVENT_KIND_STEP_METRICS)
    event.event_time.FromMilliseconds(1_000 * number + at)
    event.step_metrics.step = number
    if loss is not None:
        event.step_metrics.loss = loss
    return event


def test_steps_that_a_later_attempt_repeats_have_its_values():
    again = event_pb2.JobEvent(attempt=2, attempt_started=event_pb2.AttemptStarted(restored_step=2))
    events = [step(1, 1.0), step(2, 0.9), step(3, 0.8), step(4, 0.7), again, step(3, 0.85), step(4, 0.75)]
    losses = [(row["step"], row["values"]["train/loss"]) for row in rows_of(events)]
    assert losses == [(1, 1.0), (2, 0.9), (3, 0.85), (4, 0.75)]
