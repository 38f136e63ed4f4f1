# SPDX-License-Identifier: Apache-2.0
"""Jobs over the wire: made once, waited for, cancelled, their files fetched."""

import hashlib
from datetime import UTC, datetime

import finetree
import pytest
from finetree.testing import Script
from finetree_api.trainer.v1 import job_pb2


def test_what_was_asked_for_is_what_the_job_has(do, spec):
    client = do.client(project="team")
    recommendation = do(client.recommend({"model": spec["model"]}))
    job = do(
        client.create_job(
            recommendation.spec,
            display_name="mine",
            labels={"a": "b"},
            limits={"cost": 5, "duration": "90s"},
            deadline=datetime(2030, 1, 1, tzinfo=UTC),
            recommendation=recommendation,
        )
    )
    made = do(client.get_job(job.name))
    assert made.name.startswith("projects/team/jobs/")
    assert (made.spec, made.display_name, made.labels["a"]) == (recommendation.spec, "mine", "b")
    assert '"headline":"LoRA fits"' in made.recommendation_json
    assert (job.request_id, job.uid) == (made.request_id, made.uid)


@pytest.mark.parametrize("call", ["create_job", "validate_job"])
def test_a_keyword_that_a_job_does_not_have_is_refused_before_any_call(do, suite, spec, call):
    with pytest.raises(TypeError, match="colour"):
        do(getattr(do.client(), call)(spec, colour="red"))
    assert suite.faults.calls("CreateJob") == suite.faults.calls("ValidateJob") == []


def test_the_same_request_id_makes_one_job(do, spec):
    client = do.client()
    first, second = (do(client.create_job(spec, request_id="once")) for _ in range(2))
    assert first.name == second.name
    with pytest.raises(finetree.AlreadyExists) as caught:
        do(client.create_job(spec, display_name="other", request_id="once"))
    assert (caught.value.reason, caught.value.request_id) == ("REQUEST_ID_REUSED", "once")


def test_an_attempt_that_is_lost_makes_no_second_job(do, suite, spec):
    suite.faults.fail_next("CreateJob", finetree.Unavailable("restarting", reason="SHUTTING_DOWN"), times=2)
    job = do(do.client().create_job(spec))
    calls = suite.faults.calls("CreateJob")
    assert len(calls) == 3
    assert {call.request_id for call in calls} == {job.request_id}
    assert len(do.all(do.client().list_jobs())) == 1


def test_retries_can_be_switched_off(do, suite, spec):
    suite.faults.fail_next("CreateJob", finetree.Unavailable("restarting", reason="SHUTTING_DOWN"))
    with pytest.raises(finetree.Unavailable):
        do(do.client(retries=False).create_job(spec))
    assert len(suite.faults.calls("CreateJob")) == 1


def test_validate_gives_the_digest_that_create_may_require(do, spec):
    client = do.client()
    checked = do(client.validate_job(spec))
    assert do(client.create_job(spec, plan_digest=checked.plan_digest)).name
    with pytest.raises(finetree.PlanDrift):
        do(client.create_job(spec, plan_digest="sha256:other"))


def test_a_whole_job_request(do, spec):
    request = job_pb2.JobTemplate(display_name="whole", spec=finetree.spec_from_dict(spec))
    assert do(do.client().create_job(request)).snapshot.display_name == "whole"


def test_wait_gives_the_ended_job(do, spec):
    job = do(do.client().create_job(spec))
    assert do(job.wait(timeout=10)).state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.snapshot.state == job_pb2.JOB_STATE_SUCCEEDED
    assert do(job.wait(timeout=10, check=True)).state == job_pb2.JOB_STATE_SUCCEEDED


def test_wait_is_bounded_and_the_job_goes_on(do, suite, spec):
    suite.trainer.script = Script(hold_at=3)
    job = do(do.client().create_job(spec))
    with pytest.raises(finetree.FinetreeTimeout, match="goes on"):
        do(job.wait(timeout=0.3))
    suite.trainer.advance(job.name)
    assert do(job.wait(timeout=10)).state == job_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [("FAILED", ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY")), ("CANCELLED", ("CANCELLED", "JOB_CANCELLED"))],
)
def test_a_job_that_did_not_succeed(do, suite, spec, outcome, cause):
    suite.trainer.script = Script(outcome=outcome)
    job = do(do.client().create_job(spec))
    assert do(job.wait(timeout=10)).state == job_pb2.JobState.Value(f"JOB_STATE_{outcome}")
    with pytest.raises(finetree.JobFailed) as caught:
        do(job.wait(timeout=10, check=True))
    error = caught.value
    assert (error.job, error.code, error.reason) == (job.name, *cause)
    assert error.terminal.state == job_pb2.JobState.Value(f"JOB_STATE_{outcome}")


def test_cancel(do, suite, spec):
    suite.trainer.script = Script(hold_at=3)
    job = do(do.client().create_job(spec))
    assert do(job.cancel("CHECKPOINT")).state == job_pb2.JOB_STATE_CANCELLED
    assert do(job.wait(timeout=10)).state == job_pb2.JOB_STATE_CANCELLED
    with pytest.raises(finetree.InvalidArgument, match="known are now, checkpoint"):
        do(job.cancel("later"))


def test_a_handle_without_a_call(do, suite):
    job = do.client().job("123")
    assert (job.name, job.uid, job.cursor) == ("projects/default/jobs/123", "", "")
    assert suite.faults.calls() == []
    with pytest.raises(finetree.NotFound) as caught:
        do(job.refresh())
    assert caught.value.reason == "JOB_NOT_FOUND"


def test_lists_by_state_and_label(do, suite, spec):
    client = do.client()
    done = do(client.create_job(spec, labels={"team": "a"}))
    suite.trainer.script = Script(hold_at=6)
    running = do(client.create_job(spec, labels={"team": "b"}))
    assert [job.name for job in do.all(client.list_jobs(page_size=1))] == [running.name, done.name]
    assert [job.name for job in do.all(client.list_jobs(states=["succeeded"]))] == [done.name]
    assert [job.name for job in do.all(client.list_jobs(labels={"team": "b"}))] == [running.name]


def test_the_newest_events_without_waiting(do, spec):
    job = do(do.client().create_job(spec))
    last = do(job.list_events(last=3))
    assert [event.seq for event in last] == [17, 18, 19]
    assert all(event.HasField("step_metrics") for event in do(job.list_events(kinds=["step_metrics"])))


def test_every_file_is_downloaded_and_checked(do, spec, tmp_path):
    job = do(do.client().create_job(spec))
    told = []
    folders = do(job.download(tmp_path, on_progress=lambda done, total: told.append((done, total))))
    (artifact,) = do(job.artifacts())
    assert folders == {artifact.name: tmp_path / "adapter"}
    for file in artifact.files:
        data = (tmp_path / "adapter" / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)
    assert told[-1] == (artifact.size_bytes, artifact.size_bytes)
    assert told == sorted(told)
    assert [path.name for path in tmp_path.rglob("*.part")] == []


def test_a_cut_download_goes_on_where_it_was(do, suite, spec, tmp_path):
    job = do(do.client().create_job(spec))
    suite.trainer.cut_download_after(100_000)
    told = []
    do(job.download(tmp_path, on_progress=lambda done, _: told.append(done)))
    assert told == sorted(set(told))
    before = len(suite.faults.calls("DownloadArtifact"))
    do(job.download(tmp_path))
    assert len(suite.faults.calls("DownloadArtifact")) == before


def test_capacity(do, suite):
    client = do.client()
    assert do(client.capacity()).host_bf16_flops_per_second == 0.0
    assert do(client.capacity(wait_for_rate=20)).host_bf16_flops_per_second > 0
    seconds = [call.seconds for call in suite.faults.calls("GetCapacity")]
    assert seconds[0] <= 10.1
    assert 20 < seconds[1] <= 30.1
