# SPDX-License-Identifier: Apache-2.0
"""What trackers get of an event, of a job's settings, and of repeated steps."""

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_cli.sinks.mlflow import LONGEST_PARAM, settings_of, tags_of, values_of
from finetree_cli.sinks.pump import FIRST_WAIT, LONGEST_WAIT, wait_after
from finetree_cli.sinks.wandb_folder import rows_of


def step(number: int, loss: float | None, *, at: int = 0) -> event_pb2.JobEvent:
    event = event_pb2.JobEvent(seq=number, kind=event_pb2.EVENT_KIND_STEP_METRICS)
    event.event_time.FromMilliseconds(1_000 * number + at)
    event.step_metrics.step = number
    if loss is not None:
        event.step_metrics.loss = loss
    return event


def test_a_value_has_the_time_of_its_event():
    found = {value.key: value for value in values_of(step(3, 0.5))}
    assert (found["train/loss"].timestamp, found["train/loss"].step, found["train/loss"].value) == (3000, 3, 0.5)


def test_a_loss_that_was_not_finite_is_left_out():
    assert "train/loss" not in {value.key for value in values_of(step(3, None))}


def test_other_events_have_no_values():
    assert values_of(event_pb2.JobEvent(log_line=event_pb2.LogLine(text="x"))) == []


def test_settings_are_flat_and_short():
    job = job_pb2.Job()
    job.train.spec.lora.rank = 8
    job.train.spec.training.learning_rate = 2e-4
    job.train.spec.model.name = "m" * 600
    found = settings_of(job)
    assert (found["lora.rank"], found["training.learning_rate"]) == ("8", "0.0002")
    assert len(found["model.name"]) == LONGEST_PARAM
    assert found["model.name"].endswith("…")


def test_tags_leave_out_what_is_empty():
    job = job_pb2.Job(uid="u", name="projects/p/jobs/u", state=job_pb2.JOB_STATE_FAILED, labels={"team": "a"})
    assert tags_of(job) == {
        "finetree.job_uid": "u",
        "finetree.job": "projects/p/jobs/u",
        "finetree.state": "failed",
        "finetree.attempt": "0",
        "finetree.label.team": "a",
    }


def test_steps_that_a_later_attempt_repeats_have_its_values():
    again = event_pb2.JobEvent(attempt=2, attempt_started=event_pb2.AttemptStarted(restored_step=2))
    events = [step(1, 1.0), step(2, 0.9), step(3, 0.8), step(4, 0.7), again, step(3, 0.85), step(4, 0.75)]
    losses = [(row["step"], row["values"]["train/loss"]) for row in rows_of(events)]
    assert losses == [(1, 1.0), (2, 0.9), (3, 0.85), (4, 0.75)]


@pytest.mark.parametrize("failures", [1, 2, 5, 100])
def test_waiting_grows_up_to_a_limit(failures):
    most = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1))
    assert all(most / 2 <= wait_after(failures) <= most for _ in range(50))


def test_what_a_target_asks_for_is_kept():
    assert wait_after(1, 40.0) >= 40.0
