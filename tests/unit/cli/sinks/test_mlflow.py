# SPDX-License-Identifier: Apache-2.0
"""What MLflow gets of an event and of a job."""

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_cli.sinks.mlflow import LONGEST_PARAM, settings_of, tags_of, values_of


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
