# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions are pieces of work for the store
import pytest
from finetree_runtime.errors import AlreadyExists
from finetree_trainer.store import request_ids
from finetree_trainer.store.request_ids import RequestKey


def test_a_request_id_belongs_to_one_request_of_a_project(store):
    def claim(project="p", method="CreateJob", body="h", resource="r1"):
        key = RequestKey(project, "id", method, body)
        return store.submit(lambda connection: request_ids.claim(connection, key, resource, now=1)).result()

    assert claim() is None
    assert claim(resource="r2").resource == "r1"
    assert claim(project="q", resource="r3") is None
    for other in ({"body": "other"}, {"method": "CreateDataset"}):
        with pytest.raises(AlreadyExists) as error:
            claim(**other)
        assert error.value.reason == "REQUEST_ID_REUSED"
