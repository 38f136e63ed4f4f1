# SPDX-License-Identifier: Apache-2.0
"""The committed OpenAPI document: valid, with every rpc, and with what the contract says of each field."""

import json
from importlib import resources

import pytest
from finetree_console.rpc.contract import methods
from openapi_spec_validator import OpenAPIV31SpecValidator

DOCUMENT = json.loads(resources.files("finetree_console.openapi").joinpath("openapi.json").read_text(encoding="utf-8"))
SCHEMAS = DOCUMENT["components"]["schemas"]


@pytest.mark.slow
def test_it_is_valid_openapi():
    OpenAPIV31SpecValidator(DOCUMENT).validate()


@pytest.mark.parametrize("method", list(methods()), ids=lambda method: method.path)
def test_each_rpc_has_its_operations(method):
    verbs = set(DOCUMENT["paths"][method.path])
    if method.unary:
        assert "post" in verbs
        assert method.safe or verbs == {"post"}
    else:
        # A prompt is no query: what generates is asked by POST.
        read = "post" if method.name == "Generate" else "get"
        assert verbs == {"put" if method.client_streaming else read}


def test_get_is_for_what_changes_nothing_and_needs_no_message():
    paths = DOCUMENT["paths"]
    assert set(paths["/trainer/v1/ListJobs"]) == {"get", "post"}
    assert set(paths["/trainer/v1/CreateJob"]) == {"post"}, "it changes something"
    assert set(paths["/estimator/v1/EstimateRun"]) == {"post"}, "it needs a spec"
    named = {each.get("name"): each for each in paths["/trainer/v1/GetJob"]["get"]["parameters"]}
    assert named["name"]["required"] is True


def test_everything_is_described():
    silent = [name for name, schema in SCHEMAS.items() if not schema.get("description")]
    silent += [
        f"{name}.{key}"
        for name, schema in SCHEMAS.items()
        if not name.startswith("google.") and name != "Error"
        for key, value in schema.get("properties", {}).items()
        if not value.get("description")
    ]
    assert silent == []


def test_rules_are_constraints():
    create = SCHEMAS["trainer.v1.CreateDatasetRequest"]
    assert create["required"] == ["size_bytes", "sha256"]
    assert create["additionalProperties"] is False
    assert create["properties"]["size_bytes"] | {"description": ""} == {
        "type": "integer",
        "format": "int64",
        "minimum": 1,
        "maximum": 2**53 - 1,
        "description": "",
    }
    assert create["properties"]["sha256"]["pattern"] == "^[0-9a-f]{64}$"
    assert create["properties"]["labels"]["maxProperties"] == 64
    assert create["properties"]["labels"]["propertyNames"]["maxLength"] == 63
    states = SCHEMAS["trainer.v1.ListJobsRequest"]["properties"]["states"]
    assert (states["maxItems"], states["uniqueItems"]) == (16, True)
    assert states["items"]["not"] == {"enum": ["JOB_STATE_UNSPECIFIED"]}


def test_enums_are_texts_with_a_line_for_each_value():
    state = SCHEMAS["trainer.v1.JobState"]
    assert state["type"] == "string"
    assert "JOB_STATE_RUNNING" in state["enum"]
    assert "* `JOB_STATE_RUNNING`: " in state["description"]


def test_a_oneof_allows_one_member():
    (choice,) = SCHEMAS["trainer.v1.PreviewDatasetRequest"]["allOf"]
    assert choice == {"oneOf": [{"required": ["dataset"]}, {"required": ["job"]}]}, "one is needed"
    (start,) = SCHEMAS["types.v1.RunSpec"]["allOf"][:1]
    assert "not" in start["oneOf"][-1], "none is allowed"
