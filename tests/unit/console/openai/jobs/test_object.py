# SPDX-License-Identifier: Apache-2.0
"""Jobs of the trainer as the interface shows them."""

from typing import Any

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_console.openai.jobs import object as module
from openai.types.fine_tuning import FineTuningJob

UID = "0199a1b2-0000-7000-8000-000000000001"


def make(state=job_pb2.JOB_STATE_RUNNING, **fields: Any) -> job_pb2.Job:
    job = job_pb2.Job(name=f"projects/search/jobs/{UID}", uid=UID, state=state, **fields)
    job.train.spec.model.name = "small"
    job.train.spec.dataset.name = "projects/search/datasets/d1"
    job.train.spec.lora.rank = 4
    return job


def shown(job, now=1_000.0):
    return module.job_object(job, result_files=[], trained_tokens=None, now=now)


def test_every_state_has_a_status():
    states = [number for number in job_pb2.JobState.values() if number]
    assert set(module.STATUS) == set(states)
    literals = {"validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused"}
    assert {module.status(state) for state in states} == literals
    assert module.status(99) == "running", "a state that is newer than this program"


def test_the_object_has_every_field_that_the_client_declares():
    assert set(FineTuningJob.model_fields) <= set(shown(make()))


def test_the_end_is_estimated_while_there_is_an_estimate():
    job = make()
    assert shown(job)["estimated_finish"] is None
    job.progress.eta_seconds.CopyFrom(evidence_pb2.Interval(low=5, expected=20, high=40))
    assert shown(job)["estimated_finish"] == 1_020
    job.state = job_pb2.JOB_STATE_SUCCEEDED
    assert shown(job)["estimated_finish"] is None


def test_a_length_in_steps_has_no_number_of_epochs():
    job = make()
    job.train.spec.training.max_steps = 30
    assert shown(job)["hyperparameters"]["n_epochs"] == "auto"
    job.train.spec.training.epochs = 2.5
    assert shown(job)["hyperparameters"]["n_epochs"] == 2.5


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"team": "search"},
        {"no label!": "x", "team": "search"},
        {"k" * 64: "v" * 512},
        {"openai-request": "mine"},
        {"openai.metadata.0": "mine", "/": ""},
        {"emoji": "🙂" * 512},
    ],
)
def test_metadata_comes_back_as_it_was_given(metadata):
    labels, annotations = module.metadata_parts(metadata)
    job = make(labels={**labels, module.REQUEST_LABEL: "hash"}, annotations=annotations)
    assert module.metadata_of(job) == metadata
    assert all(len(value) <= 4096 for value in annotations.values())
    assert all(len(value) <= 256 for value in labels.values())
