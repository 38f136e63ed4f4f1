# SPDX-License-Identifier: Apache-2.0
"""Jobs over the wire: made once, waited for, cancelled, their files fetched."""

import hashlib
import io
from datetime import UTC, datetime

import finetree
import pytest
from finetree.testing import Script
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_pb2


def test_what_was_asked_for_is_what_the_job_has(do, spec):
    client = do.client(project="team")
    recommendation = do(
        client.recommend({"model": spec["model"], "dataset": spec["dataset"], "hardware": spec["hardware"]})
    )
    job = do(
        client.train(
            recommendation.spec,
            display_name="mine",
            labels={"a": "b"},
            limits={"max_cost": "5 USD", "max_duration": "90s"},
            deadline=datetime(2030, 1, 1, tzinfo=UTC),
            recommendation=recommendation,
        )
    )
    made = do(client.get_job(job.name))
    assert made.name.startswith("projects/team/jobs/")
    assert (made.train.spec.lora, made.display_name, made.labels["a"]) == (recommendation.spec.lora, "mine", "b")
    assert made.train.spec.dataset.name == spec["dataset"]["name"]
    assert (made.limits.max_cost.units, made.limits.max_duration.seconds) == (5, 90)
    kept = made.train.recommendation
    assert (kept.method, kept.headline, kept.rule_pack) == (method_pb2.METHOD_LORA, "LoRA fits", "fake-1")
    assert [caution.code for caution in kept.cautions] == ["FAKE"]
    assert (job.request_id, job.uid) == (made.request_id, made.uid)


@pytest.mark.parametrize("call", ["create_job", "validate_job"])
def test_a_keyword_that_a_job_does_not_have_is_refused_before_any_call(do, suite, spec, call):
    with pytest.raises(TypeError, match="color"):
        do(getattr(do.client(), call)(spec, color="red"))
    assert suite.faults.calls("CreateJob") == suite.faults.calls("ValidateJob") == []


def test_labels_are_set_and_removed_by_key(do, spec):
    job = do(do.client().create_job(spec, labels={"team": "search", "trial": "1"}, annotations={"note": "x"}))
    found = do(job.update(labels={"trial": None, "Best-One": "yes"}, annotations={"note": None}, display_name="two"))
    assert found == job.snapshot == do(job.refresh())
    assert (dict(found.labels), found.display_name) == ({"team": "search", "Best-One": "yes"}, "two")
    assert not found.annotations
    with pytest.raises(finetree.InvalidArgument, match="name what is to change"):
        do(job.update())
    with pytest.raises(finetree.InvalidArgument) as caught:
        do(job.update(labels={"-": "x"}))
    assert caught.value.reason == "INVALID_REQUEST"
    assert dict(do(job.refresh()).labels) == dict(found.labels)


def test_the_same_request_id_makes_one_job(do, spec):
    client = do.client()
    first, second = (do(client.create_job(spec, request_id="once")) for _ in range(2))
    assert first.name == second.name
    with pytest.raises(finetree.AlreadyExists) as caught:
        do(client.create_job(spec, display_name="other", request_id="once"))
    assert (caught.value.reason, caught.value.request_id) == ("REQUEST_ID_REUSED", "once")


def test_an_attempt_that_is_lost_makes_no_second_job(do, suite, spec):
    suite.faults.fail_next("CreateJob", finetree.Unavailable("restarting", reason="SERVER_STOPPING"), times=2)
    job = do(do.client().create_job(spec))
    calls = suite.faults.calls("CreateJob")
    assert len(calls) == 3
    assert {call.request_id for call in calls} == {job.request_id}
    assert len(do.all(do.client().list_jobs())) == 1


def test_retries_can_be_switched_off(do, suite, spec):
    suite.faults.fail_next("CreateJob", finetree.Unavailable("restarting", reason="SERVER_STOPPING"))
    with pytest.raises(finetree.Unavailable):
        do(do.client(retries=False).create_job(spec))
    assert len(suite.faults.calls("CreateJob")) == 1


def test_validate_gives_the_plan_that_a_job_may_require(do, spec):
    client = do.client()
    plan = do(client.validate_job(spec)).plan
    job = do(client.train(spec, approved_plan=plan))
    assert job.snapshot.plan_digest == plan.digest
    with pytest.raises(finetree.PlanDrift) as caught:
        do(client.train(spec | {"lora": {"rank": 16}}, approved_plan=plan))
    assert [violation.field for violation in caught.value.violations] == [
        "job.train.spec.lora.alpha",
        "job.train.spec.lora.rank",
    ]


def test_an_estimate_and_a_recommendation_are_plans_to_approve(do, spec):
    client = do.client()
    profile = do(client.get_dataset(spec["dataset"]["name"])).profile
    estimate = do(client.estimate(spec, dataset_profile=profile))
    plan = finetree.plan_of(estimate, dataset_profile=profile)
    assert do(client.train(plan.spec, approved_plan=plan)).snapshot.plan_digest == estimate.plan_digest
    asked = {name: spec[name] for name in ("model", "dataset", "hardware")}
    answer = do(client.recommend(asked | {"dataset_profile": finetree.to_json(profile)}))
    approved = finetree.plan_of(answer, dataset_profile=profile)
    assert do(client.train(answer.spec, approved_plan=approved)).snapshot.plan_digest == answer.plan_digest


@pytest.mark.parametrize("form", ["template", "task", "json", "spec", "dict"])
def test_a_job_in_every_form(do, spec, form):
    message = finetree.spec_from_dict(spec)
    task = job_pb2.TrainTask(spec=message)
    forms = {
        "template": job_pb2.JobTemplate(display_name="mine", train=task),
        "task": task,
        "json": {"display_name": "mine", "train": {"spec": spec}},
        "spec": message,
        "dict": spec,
    }
    fields = {} if form in ("template", "json") else {"display_name": "mine"}
    made = do(do.client().create_job(forms[form], **fields)).snapshot
    # What was asked for is kept, and every default filled in.
    resolved = run_spec_pb2.RunSpec()
    resolved.CopyFrom(made.train.spec)
    resolved.MergeFrom(message)
    assert (made.display_name, made.train.spec) == ("mine", resolved)
    assert made.train.spec.lora.alpha == 16


def test_preparing_takes_a_model_a_dataset_or_both(do, suite, spec):
    client = do.client()
    job = do(
        client.prepare(model="org/name@v1", dataset=spec["dataset"]["name"], loss_tokens="all", sequence_length=64)
    )
    task = job.snapshot.prepare
    assert (task.model.hub.id, task.model.hub.revision, task.dataset.name) == (
        "org/name",
        "v1",
        spec["dataset"]["name"],
    )
    assert (task.loss_tokens, task.sequence_length) == (training_pb2.LOSS_TOKENS_ALL, 64)
    suite.datasets.files["rows.jsonl"] = b'{"text": "a"}\n'
    assert do(client.prepare(dataset={"path": "rows.jsonl"})).snapshot.prepare.dataset.path == "rows.jsonl"
    assert [each.name for each in do.all(client.list_jobs(tasks=["prepare"], page_size=1))][-1] == job.name
    assert do.all(client.list_jobs(tasks=["train"])) == []
    with pytest.raises(finetree.InvalidArgument, match="name a model, a dataset or both"):
        do(client.prepare())


def test_exporting_is_refused_where_the_server_does_not(do):
    with pytest.raises(finetree.InvalidArgument) as caught:
        do(do.client().export("projects/p/jobs/j/artifacts/a"))
    assert caught.value.reason == "TASK_NOT_SUPPORTED"


def test_a_job_is_exported_by_its_artifact(do, suite, spec):
    client = do.client()
    job = do(client.create_job(spec))
    do(job.wait(timeout=60))
    for name in (None, job.uid, job):
        # The artifact is found; the fake suite itself exports nothing.
        with pytest.raises(finetree.InvalidArgument) as caught:
            do(job.export(format="gguf") if name is None else client.export(name, format="gguf"))
        assert caught.value.reason == "TASK_NOT_SUPPORTED"
    suite.trainer.script = Script(hold_at=3)
    with pytest.raises(finetree.NotFound) as caught:
        do(do(client.create_job(spec)).export())
    assert caught.value.reason == "ARTIFACT_NOT_FOUND"


def test_wait_gives_the_ended_job(do, spec):
    job = do(do.client().create_job(spec))
    assert do(job.wait(timeout=60)).state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.snapshot.state == job_pb2.JOB_STATE_SUCCEEDED
    assert do(job.wait(timeout=60, check=True)).state == job_pb2.JOB_STATE_SUCCEEDED


def test_wait_is_bounded_and_the_job_goes_on(do, suite, spec):
    suite.trainer.script = Script(hold_at=3)
    job = do(do.client().create_job(spec))
    with pytest.raises(finetree.FinetreeTimeout, match="continues"):
        do(job.wait(timeout=0.3))
    suite.trainer.advance(job.name)
    assert do(job.wait(timeout=60)).state == job_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [("FAILED", ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY")), ("CANCELLED", ("CANCELLED", "JOB_CANCELLED"))],
)
def test_a_job_that_did_not_succeed(do, suite, spec, outcome, cause):
    suite.trainer.script = Script(outcome=outcome)
    job = do(do.client().create_job(spec))
    assert do(job.wait(timeout=60)).state == job_pb2.JobState.Value(f"JOB_STATE_{outcome}")
    with pytest.raises(finetree.JobFailed) as caught:
        do(job.wait(timeout=60, check=True))
    error = caught.value
    assert (error.job, error.code, error.reason) == (job.name, *cause)
    assert error.terminal.state == job_pb2.JobState.Value(f"JOB_STATE_{outcome}")


def test_cancel(do, suite, spec):
    suite.trainer.script = Script(hold_at=3)
    job = do(do.client().create_job(spec))
    assert do(job.cancel("CHECKPOINT")).state == job_pb2.JOB_STATE_CANCELLED
    assert do(job.wait(timeout=60)).state == job_pb2.JOB_STATE_CANCELLED
    with pytest.raises(finetree.InvalidArgument, match="known are now, checkpoint"):
        do(job.cancel("later"))


def test_a_handle_without_a_call(do, suite):
    job = do.client().job("123")
    assert (job.name, job.uid, job.cursor) == ("123", "", "")
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
    (node,) = do(client.capacity()).nodes
    assert not node.HasField("matrix_rates")
    (node,) = do(client.capacity(wait_for_rate=20)).nodes
    assert node.matrix_rates.bf16_flops_per_second > 0
    seconds = [call.seconds for call in suite.faults.calls("GetCapacity")]
    assert seconds[0] <= 10.1
    assert 20 < seconds[1] <= 30.1


def test_a_recommendation_is_trained_as_it_is(do, spec):
    client = do.client()
    answer = do(client.recommend(model="tiny", gpu="rtx-4090", dataset=spec["dataset"]["name"]))
    for create in (client.train, client.create_job):
        job = do(client.get_job(do(create(answer)).name))
        assert job.train.spec.lora == answer.spec.lora
        assert job.train.recommendation.headline == "LoRA fits"


def test_a_recommendation_without_a_recipe_says_why(do, suite):
    answer = recommendation_pb2.RecommendResponse(
        verdict=recommendation_pb2.Verdict(headline="State the memory of the hardware"),
        cautions=[recommendation_pb2.Caution(message="whether any method fits is unknown: state the memory.")],
        ways_out=[recommendation_pb2.WayOut(message="a smaller model")],
    )
    client = do.client()
    why = "State the memory of the hardware; whether any method fits is unknown: state the memory; a smaller model"
    for create in (
        lambda: client.train(answer),
        lambda: client.train(answer.spec, recommendation=answer),
        lambda: client.create_job(answer),
        lambda: client.validate_job(answer),
    ):
        with pytest.raises(finetree.FailedPrecondition) as caught:
            do(create())
        assert caught.value.reason == "NO_METHOD_TRAINS"
        assert caught.value.message == f"the recommendation has no recipe to train: {why}"
    answer.spec.dataset.name = "data"
    with pytest.raises(finetree.FailedPrecondition, match=r"neither a model nor a method.* verdict\.headline says why"):
        do(client.create_job(answer.spec))
    assert suite.faults.calls("CreateJob") == []


def test_events_before_a_number_are_the_newest_of_those(do, suite, spec):
    job = do(do.client().create_job(spec))
    log = do(job.list_events(last=1000))
    assert [event.seq for event in do(job.list_events(last=3, before_seq=8))] == [5, 6, 7]
    assert do(job.list_events(last=3, before_seq=1)) == []
    assert [event.seq for event in log] == list(range(1, len(log) + 1))


def test_a_file_of_an_artifact_is_read_piece_by_piece_through_a_cut(do, suite, spec, tmp_path):
    job = do(do.client().create_job(spec))
    (artifact,) = do(job.artifacts())
    folders = do(job.download(tmp_path))
    for file in artifact.files:
        suite.trainer.cut_download_after(100_000)
        whole = (folders[artifact.name] / file.path).read_bytes()
        assert b"".join(do.all(job.read_file(artifact.name, file.path))) == whole
        assert (
            b"".join(do.all(job.read_file(artifact.name, file.path, offset=len(whole) // 3)))
            == whole[len(whole) // 3 :]
        )
    with pytest.raises(finetree.NotFound) as caught:
        do.all(job.read_file(artifact.name, "no such file"))
    assert caught.value.reason == "FILE_NOT_FOUND"


def test_watching_writes_lines_and_returns_the_job(do, suite, spec):
    written = io.StringIO()
    job = do(do.client().create_job(spec))
    found = do(job.watch(file=written))
    assert found.state == job_pb2.JOB_STATE_SUCCEEDED
    lines = written.getvalue().splitlines()
    assert lines[0].isprintable()
    assert lines[-1] == do(job.list_events(last=1))[0].message
    assert [line for line in lines if line.startswith("step 10/10  loss 1.500")]
    assert repr(job).endswith(f"Job {job.name}: succeeded, step 10 of 10, loss 1.500>")
    assert "succeeded" in job._repr_html_()


def test_watching_a_job_that_fails_raises_only_when_asked(do, suite, spec):
    suite.trainer.script = Script(outcome="FAILED")
    job = do(do.client().create_job(spec))
    assert do(job.watch(file=io.StringIO())).state == job_pb2.JOB_STATE_FAILED
    with pytest.raises(finetree.JobFailed, match="ran out of memory"):
        do(job.watch(file=io.StringIO(), check=True))


def test_watching_ends_in_time_and_leaves_the_job_alone(do, suite, spec):
    suite.trainer.script = Script(hold_at=3)
    job = do(do.client().create_job(spec))
    with pytest.raises(finetree.FinetreeTimeout):
        do(job.watch(file=io.StringIO(), timeout=0.3))
    assert do(job.refresh()).state == job_pb2.JOB_STATE_PREPARING


def test_a_handle_shows_itself_without_a_call(do, suite):
    job = do.client().job("1")
    assert repr(job).endswith("Job 1>")
    assert "1" in job._repr_html_()
    assert suite.faults.calls() == []
