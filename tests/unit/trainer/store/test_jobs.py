# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003, ANN202 - inner functions are pieces of work for the store
from finetree_api.trainer.v1 import job_pb2
from finetree_trainer.store import jobs


def test_what_changes_is_read_without_the_record(store, new_row, create_job):
    create_job(new_row(record=b"x" * 1000))
    assert store.read_now(lambda connection: jobs.load_hot(connection, "j1")).record == b""
    assert store.read_now(lambda connection: jobs.load(connection, "j1")).record == b"x" * 1000


def test_jobs_are_found_by_label_state_and_dataset(store, new_row, create_job):
    create_job(new_row("a", state=job_pb2.JOB_STATE_QUEUED, dataset_uid="d1"))
    create_job(new_row("b", state=job_pb2.JOB_STATE_SUCCEEDED, evaluation_uid="d2"))

    def page(**filters):
        return [row.uid for row in store.read_now(lambda c: jobs.page(c, "p", before="", limit=9, **filters))]

    assert page() == ["b", "a"]
    assert page(states=[job_pb2.JOB_STATE_QUEUED]) == ["a"]
    assert page(labels={"team": "x"}) == ["b", "a"]
    assert page(labels={"team": "y"}) == []
    live = [job_pb2.JOB_STATE_QUEUED]
    assert store.read_now(lambda c: jobs.user_of_dataset(c, "d1", live)).uid == "a"
    assert store.read_now(lambda c: jobs.user_of_dataset(c, "d2", live)) is None
