# SPDX-License-Identifier: Apache-2.0
"""What the console answers is what its OpenAPI document says, for every rpc that the fake suite answers."""

import json

import jsonschema
import pytest
from finetree_console.rpc.contract import methods

SPEC = {"model": {"name": "tiny"}, "lora": {"rank": 8}, "dataset": {"path": "rows.jsonl"}}
ON_GPU = SPEC | {"hardware": {"accelerator": "rtx-4090"}}


@pytest.fixture(scope="module")
def document(http):
    return http.get("/openapi.json").json()


@pytest.fixture(scope="module")
def requests(http):
    """A request for each unary rpc that needs more than an empty one."""
    body = {"job": {"train": {"spec": SPEC}}}
    job = http.post("/trainer/v1/CreateJob", json=body).json()["job"]["name"]
    dataset = http.post("/trainer/v1/CreateDataset", json={"size_bytes": 1, "sha256": "0" * 64}).json()["dataset"][
        "name"
    ]
    named = {"name": job}
    return {
        "CreateJob": body,
        "ValidateJob": body,
        "GetJob": named,
        "UpdateJob": named | {"labels": {"team": "search"}, "update_mask": "labels.team"},
        "CancelJob": named,
        "ListEvents": named,
        "ListArtifacts": {"parent": job},
        "CreateDataset": {"size_bytes": 1, "sha256": "1" * 64},
        "GetDataset": {"name": dataset},
        "EstimateRun": {"spec": ON_GPU},
        "BatchEstimateRuns": {"rows": [{"key": "a", "request": {"spec": ON_GPU}}]},
        "CheckPlan": {"run": {"spec": ON_GPU}, "policy": {"limits": [{"metric": "POLICY_METRIC_FIT"}]}},
        "Recommend": {"model": {"name": "tiny"}},
        "GetMethod": {"method": "METHOD_LORA"},
        "RenderFrontier": {"request": {"model": {"name": "tiny"}}},
    }


def validator(document: dict, name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**document, "$ref": f"#/components/schemas/{name}"})


@pytest.mark.parametrize("method", [each for each in methods() if each.unary], ids=lambda method: method.path)
def test_an_answer_is_as_its_schema_says(http, document, requests, method):
    sent = requests.get(method.name, {})
    response = http.post(method.path, json=sent)
    if method.name in requests:
        validator(document, method.request.DESCRIPTOR.full_name.removeprefix("finetree_api.")).validate(sent)
    if response.status_code == 200:
        name = method.response.DESCRIPTOR.full_name.removeprefix("finetree_api.")
    else:
        name = "Error"
        assert method.name not in requests, response.text
    validator(document, name).validate(response.json())


def test_an_event_is_as_its_schema_says(http, document, requests):
    check = validator(document, "trainer.v1.JobEvent")
    stream = http.get("/trainer/v1/WatchJob", params={"name": requests["GetJob"]["name"]}).text
    events = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: ")]
    assert len(events) > 10
    for event in events:
        check.validate(event)
