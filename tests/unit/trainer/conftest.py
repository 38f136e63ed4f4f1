# SPDX-License-Identifier: Apache-2.0
"""A store in a folder of its own, and rows to put into it."""

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_trainer.store import jobs
from finetree_trainer.store.database import Store


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "trainer.db")
    yield opened
    opened.close()


@pytest.fixture
def new_row():
    def make(uid="j1", **changes) -> jobs.JobRow:  # noqa: ANN003 - any field of the row
        fields = {
            "uid": uid,
            "project": "p",
            "owner": "me",
            "kind": job_pb2.JOB_KIND_TRAIN,
            "state": job_pb2.JOB_STATE_UNSPECIFIED,
            "suspended": False,
            "attempt": 0,
            "last_seq": 0,
            "oldest_seq": 1,
            "attempt_started": 0,
            "cancel_requested": 0,
            "create_time": 1,
            "update_time": 1,
            "end_time": 0,
            "dataset_uid": "",
            "evaluation_uid": "",
            "snapshot": job_pb2.Job(kind=job_pb2.JOB_KIND_TRAIN).SerializeToString(),
            "record": job_pb2.Job(uid=uid).SerializeToString(),
        }
        return jobs.JobRow(**(fields | changes))

    return make
