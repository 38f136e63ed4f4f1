# SPDX-License-Identifier: Apache-2.0
"""Unary rpcs over HTTP: what is sent arrives, what is answered is JSON, what is wrong is said where."""

import pytest
from finetree_console.rpc.contract import methods

SPEC = {"model": {"name": "tiny"}, "lora": {"rank": 8}, "dataset": {"path": "rows.jsonl"}}


def error(response):
    return response.json()["error"]


def test_an_rpc_that_changes_nothing_answers_to_get_and_to_post(http):
    for response in (http.get("/trainer/v1/GetServerInfo"), http.post("/trainer/v1/GetServerInfo")):
        assert response.status_code == 200
        assert response.json()["server"]["service"] == "finetree-trainer"


def test_a_job_is_created_found_and_listed(http):
    created = http.post("/trainer/v1/CreateJob", json={"job": {"train": {"spec": SPEC}, "labels": {"team": "nlp"}}})
    name = created.json()["job"]["name"]
    assert http.get("/trainer/v1/GetJob", params={"name": name}).json()["job"]["name"] == name
    listed = http.get("/trainer/v1/ListJobs", params={"labels.team": "nlp", "page_size": 1}).json()
    assert [job["name"] for job in listed["jobs"]] == [name]


def test_int64_is_a_json_number(http):
    created = http.post("/trainer/v1/CreateDataset", json={"size_bytes": 5_000_000_000, "sha256": "0" * 64})
    dataset = created.json()["dataset"]
    assert (dataset["size_bytes"], dataset["committed_bytes"]) == (5_000_000_000, 0)


@pytest.mark.parametrize(
    ("body", "path", "text"),
    [
        ('{"nam": "x"}', "nam", "did you mean name?"),
        ('{"name": 3}', "name", "expected text"),
        ('{"name": "a", "name": "b"}', "name", "stands twice"),
        ('["name"]', "", "expected a JSON object"),
        ('{"name": ', "", "not JSON"),
        ('{"name": NaN}', "", "NaN is not JSON"),
        ("[" * 100_000, "", "nested too deeply"),
        ('{"name": "\ud800"}'.encode("utf-8", "surrogatepass"), "", "not UTF-8"),
    ],
)
def test_a_body_that_is_wrong_is_refused_with_its_place(http, body, path, text):
    response = http.post("/trainer/v1/GetJob", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert text in error(response)["message"]
    assert [violation["field"] for violation in error(response)["violations"]] == [path]


def test_what_the_service_refuses_is_answered_with_its_reason_and_the_status(http):
    response = http.get("/trainer/v1/GetJob", params={"name": "none"}, headers={"x-request-id": "mine-1"})
    assert response.status_code == 404
    assert error(response)["reason"] == "JOB_NOT_FOUND"
    assert error(response)["request_id"] == response.headers["x-request-id"] == "mine-1"


def test_another_path_or_method_is_refused(http):
    assert error(http.get("/trainer/v1/GetTea"))["reason"] == "PATH_NOT_FOUND"
    refused = http.get("/trainer/v1/CreateJob")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


def test_each_unary_rpc_has_a_path(http):
    unary = [method for method in methods() if method.unary]
    assert len(unary) > 30
    for method in unary:
        # A body that is never right: it is refused as JSON, so the rpc was found and nothing was done.
        response = http.post(method.path, content="[]", headers={"content-type": "application/json"})
        assert error(response)["reason"] == "MALFORMED_REQUEST", method.path
