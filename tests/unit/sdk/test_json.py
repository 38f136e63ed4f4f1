# SPDX-License-Identifier: Apache-2.0
"""Messages as JSON: numbers are numbers, and there is no NaN."""

import json
import math

import pytest
from finetree import spec_from_dict, to_json
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.trainer.v1 import artifact_pb2, capacity_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2, run_spec_pb2
from google.protobuf import json_format
from google.rpc import error_details_pb2


def test_int64_is_a_number_as_far_as_json_holds_it():
    event = event_pb2.JobEvent(seq=2**53 - 1)
    assert json.loads(json.dumps(to_json(event))) == {"seq": 9007199254740991}


def test_enums_by_name_and_unknown_ones_by_number():
    assert to_json(event_pb2.JobEvent(state=job_pb2.JOB_STATE_RUNNING)) == {"state": "JOB_STATE_RUNNING"}
    kind_9999 = event_pb2.JobEvent.FromString(b"\x38\x8f\x4e")
    assert to_json(kind_9999) == {"kind": 9999}


def test_times_durations_maps_lists_and_nested_messages():
    job = job_pb2.Job(labels={"b": "2", "a": "1"}, placements=[{"node": "n", "device_ids": ["cpu"]}])
    job.create_time.FromJsonString("2026-11-25T12:00:00.5Z")
    job.limits.max_duration.FromJsonString("90.5s")
    assert to_json(job) == {
        "placements": [{"node": "n", "device_ids": ["cpu"]}],
        "limits": {"max_duration": "90.500s"},
        "labels": {"a": "1", "b": "2"},
        "create_time": "2026-11-25T12:00:00.500Z",
    }


@pytest.mark.parametrize("value", [16, 0.5, True, "PRECISION_BF16", None, ["q_proj", 1], {"name": "x"}])
def test_values_of_any_kind_are_themselves(value):
    patch = check_pb2.SpecPatch(field_path="a.b")
    json_format.ParseDict(value, patch.value)
    assert to_json(patch)["value"] == value if value is not None else "value" not in to_json(patch)


def test_maps_of_numbers_and_bytes():
    assert to_json(capacity_pb2.GetCapacityResponse(limits={"upload_bytes": 5})) == {"limits": {"upload_bytes": 5}}
    assert to_json(artifact_pb2.DownloadArtifactResponse(chunk=b"\0\xff")) == {"chunk": "AP8="}


def test_numbers_that_are_not_finite_are_left_out():
    assert to_json(evidence_pb2.Interval(low=math.nan, expected=1.0, high=math.inf)) == {"expected": 1.0}


def test_what_is_set_to_zero_with_presence_is_shown():
    assert to_json(event_pb2.EvalMetrics(loss=0.0)) == {"loss": 0.0}


def test_defaults_give_every_line_the_same_keys():
    shown = to_json(estimate_pb2.Fit(), defaults=True)
    assert shown == {"verdict": "FIT_VERDICT_UNSPECIFIED", "headroom_bytes": 0, "summary": "", "probability": 0.0}


def test_error_details_are_readable():
    job = job_pb2.Job()
    job.error.details.add().Pack(error_details_pb2.ErrorInfo(reason="OUT_OF_MEMORY"))
    job.error.details.add(type_url="type.googleapis.com/not.Known", value=b"x")
    details = to_json(job)["error"]["details"]
    assert details[0] == {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "OUT_OF_MEMORY"}
    assert details[1] == {"@type": "type.googleapis.com/not.Known", "value": "eA=="}


def test_a_spec_survives_the_round_trip():
    spec = run_spec_pb2.RunSpec(model={"name": "x"}, lora={"rank": 8}, training={"max_steps": 3, "learning_rate": 1e-4})
    assert spec_from_dict(to_json(spec)) == spec


def test_whole_numbers_of_a_value_have_no_fraction():
    """A google.protobuf.Value keeps 16 as 16.0; a patch is written into a job file as a person would."""
    patch = check_pb2.SpecPatch(field_path="qlora")
    patch.value.struct_value.update({"lora": {"rank": 16, "dropout": 0.1}, "targets": ["a", 2]})
    assert json.dumps(to_json(patch)["value"]) == '{"lora": {"dropout": 0.1, "rank": 16}, "targets": ["a", 2]}'
