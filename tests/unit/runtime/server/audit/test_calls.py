# SPDX-License-Identifier: Apache-2.0
"""What a record of a call has, and which calls have one."""

import asyncio

import pytest
from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.recommender.v1 import recommender_pb2
from finetree_api.trainer.v1 import dataset_pb2, job_pb2, serving_pb2, trainer_pb2
from finetree_cli.backends.audit.records import lines
from finetree_runtime.server.audit.calls import REFUSALS_A_SECOND, Auditor, changes, gives_secret, uploads
from finetree_runtime.server.audit.log import AuditLog
from finetree_runtime.server.context import Call

SERVICES = [
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (trainer_pb2, "TrainerService"),
        (estimator_pb2, "EstimatorService"),
        (recommender_pb2, "RecommenderService"),
    )
]
READS = ("Get", "List", "Query", "Watch", "Wait", "Read", "Download", "Preview", "Compare", "Validate", "Estimate")
READS += ("Batch", "Find", "Check", "Explain", "Recommend", "Render", "Generate", "Suggest")
TRAINER = "/finetree_api.trainer.v1.TrainerService/"


def trail(method, request, fields=()):
    call = Call(method=TRAINER + method, request_id="r-1", fields=dict(fields))
    followed = Auditor().trail(call, "ipv4:10.0.0.7:4711")
    followed.received(request)
    return followed


def test_what_changes_something_is_read_from_the_contract():
    methods = [(service.full_name, method.name) for service in SERVICES for method in service.methods]
    changing = {name for service, name in methods if changes(f"/{service}/{name}")}
    assert changing >= {"CreateJob", "DeleteJob", "WriteDataset", "ResetCalibration", "UpdateCheckpoint", "LoadTarget"}
    assert [name for name in changing if name.startswith(READS)] == []
    assert {name for _, name in methods if not name.startswith(READS)} <= changing | {"DiffRuns"}
    assert uploads(TRAINER + "WriteDataset")
    assert not uploads(TRAINER + "CreateDataset")
    assert changes("/unknown.Service/Method")


def test_what_gives_a_secret_is_read_from_the_contract():
    methods = [f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods]
    assert [name.rpartition("/")[2] for name in methods if gives_secret(name)] == ["GetArtifactLink"]
    assert not gives_secret("/unknown.Service/Method")


def test_a_record_names_what_was_asked_for_and_what_was_made():
    request = trainer_pb2.CreateJobRequest(parent="projects/search", job=job_pb2.JobTemplate(display_name="a name"))
    job = job_pb2.Job(name="projects/search/jobs/0190")
    followed = trail("CreateJob", request)
    followed.replied(trainer_pb2.CreateJobResponse(job=job))
    assert followed.fields("OK") == {
        "principal": "local",
        "kind": "local",
        "credential": "",
        "peer": "ipv4:10.0.0.7:4711",
        "method": TRAINER + "CreateJob",
        "resources": ["projects/search", "projects/search/jobs/0190"],
        "request_id": "r-1",
        "code": "OK",
        "reason": "",
    }


@pytest.mark.parametrize(
    "text", ["The rows say: hello", "a\nb", "x" * 200, "ft_abcdefghijklmnop", "", "a b", "\x1b[2J", "a//b"]
)
def test_what_is_no_name_is_left_out(text):
    assert trail("UnloadTarget", serving_pb2.UnloadTargetRequest(job=text, target=text)).fields()["resources"] == []


def test_texts_and_bytes_of_a_request_are_in_no_record():
    request = serving_pb2.GenerateRequest(job="0190", prompt="swordfish")
    assert "swordfish" not in str(trail("Generate", request).fields("OK"))
    piece = dataset_pb2.WriteDatasetRequest(name="projects/a/datasets/1", data=b"swordfish")
    assert "swordfish" not in str(trail("WriteDataset", piece).fields("OK"))


def test_an_error_leaves_its_reason_and_id():
    found = trail("DeleteJob", None, {"reason": "JOB_IN_USE", "error_id": "e-1"}).fields("FAILED_PRECONDITION")
    assert (found["code"], found["reason"], found["error_id"]) == ("FAILED_PRECONDITION", "JOB_IN_USE", "e-1")


async def test_a_flood_of_refusals_is_counted_by_address_and_reason(tmp_path):
    auditor = Auditor(AuditLog.at(tmp_path, 10**6))
    for number in range(90):
        call = Call(method=TRAINER + "ListJobs", fields={"reason": "TOKEN_INVALID" if number % 3 else "TOKEN_EXPIRED"})
        auditor.trail(call, f"ipv4:10.0.0.7:{number}").end("UNAUTHENTICATED")
    await asyncio.to_thread(auditor.close)
    records = [line.record for line in lines(tmp_path)]
    single = [record for record in records if record["event"] == "call"]
    counted = {record["reason"]: record["count"] for record in records if record["event"] == "refusals"}
    assert len(single) == REFUSALS_A_SECOND
    assert sum(counted.values()) == 90 - REFUSALS_A_SECOND
    assert counted.keys() == {"TOKEN_INVALID", "TOKEN_EXPIRED"}
    assert {record["peer"] for record in records if record["event"] == "refusals"} == {"ipv4:10.0.0.7"}


async def test_reads_that_are_answered_have_no_record(tmp_path):
    auditor = Auditor(AuditLog.at(tmp_path, 10**6))
    auditor.trail(Call(method=TRAINER + "WatchJob"), "ipv4:10.0.0.7:1").end("OK")
    auditor.trail(Call(method=TRAINER + "Generate"), "ipv4:10.0.0.7:1").end("CANCELLED")
    auditor.trail(Call(method=TRAINER + "DeleteJob"), "ipv4:10.0.0.7:1").end("OK")
    await asyncio.to_thread(auditor.close)
    assert [line.record["event"] for line in lines(tmp_path)] == ["call", "stop"]
