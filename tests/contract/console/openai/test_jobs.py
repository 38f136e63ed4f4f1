# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning jobs, as the `openai` client creates, follows and lists them."""

import dataclasses
import re
from typing import Any

import finetree
import openai
import pytest
from finetree_api.trainer.v1 import job_pb2

MODEL = "smollm2-135m-instruct"
OWN = {"lora": {"rank": 4}, "training": {"learning_rate": 1e-4}}


def create(client, file, **fields: Any):
    own = fields.pop("finetree", None)
    extra = {"extra_body": {"finetree": own}} if own is not None else {}
    created = client.fine_tuning.jobs.create(**{"model": MODEL, "training_file": file, **fields, **extra})
    return client.fine_tuning.jobs.retrieve(created.id)


def message(suite, job) -> job_pb2.Job:
    with suite.client() as client:
        return client.get_job(job.id.removeprefix("ftjob-"))


def refused(client, file, **fields: Any):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, file, **fields)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.request_id
    return caught.value


def test_the_request_becomes_a_run_and_the_run_the_answer(client, suite, training_file):
    held_out = client.files.create(file=("held.jsonl", b'{"text": "held out"}\n'), purpose="fine-tune").id
    job = create(
        client,
        training_file,
        validation_file=held_out,
        suffix="codes",
        seed=7,
        metadata={"team": "search", "no label!": "ünï" * 100},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 2, "learning_rate_multiplier": 3}},
        },
        finetree={**OWN, "labels": {"stage": "dev"}, "limits": {"max_duration": "8h"}},
    )
    made = message(suite, job)
    spec = made.train.spec
    assert (spec.model.name, spec.lora.rank) == (MODEL, 4)
    assert f"file-{spec.dataset.name.rpartition('/')[2]}" == training_file == job.training_file
    assert f"file-{spec.evaluation.dataset.name.rpartition('/')[2]}" == held_out == job.validation_file
    training = spec.training
    assert (training.epochs, training.effective_batch_size, training.micro_batch_size, training.seed) == (2, 2, 2, 7)
    assert training.learning_rate == pytest.approx(3e-4)
    assert (made.display_name, made.labels["team"], made.labels["stage"]) == ("codes", "search", "dev")
    assert made.limits.max_duration.seconds == 8 * 3600
    assert not made.train.HasField("recommendation")

    assert (job.model, job.suffix, job.seed, job.organization_id) == (MODEL, "codes", 7, "default")
    assert job.metadata == {"team": "search", "stage": "dev", "no label!": "ünï" * 100}
    assert job.hyperparameters.model_dump() == {"n_epochs": 2, "batch_size": 2, "learning_rate_multiplier": 3.0}
    assert job.method.type == "supervised"
    assert job.finetree["method"] == "lora"
    assert client.fine_tuning.jobs.retrieve(job.id).to_dict() | {"status": ""} == job.to_dict() | {"status": ""}


def test_without_a_method_the_recommender_chooses_and_an_event_says_why(client, suite, training_file):
    job = create(client, training_file, finetree={"recommend": {"quality": "important"}, "training": {"epochs": 5}})
    assert suite.faults.calls("Recommend")
    made = message(suite, job)
    assert (made.train.spec.lora.rank, made.train.spec.training.epochs) == (8, 5)
    assert job.finetree["recommendation"]["headline"]
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    assert events[-1].id == "ftevt-000000000001"
    assert job.finetree["recommendation"]["headline"] in events[-1].message
    assert events[-1].data["recommendation"] == job.finetree["recommendation"]


def test_settings_that_the_request_replaces_are_no_longer_the_recommenders(client, suite, training_file):
    job = create(client, training_file, hyperparameters={"n_epochs": 9})
    sources = {each.field_path for each in message(suite, job).train.setting_sources if each.rule_id != "request"}
    assert "training.epochs" not in sources


def test_a_job_that_succeeded_has_a_model_and_results(client, training_file, tmp_path):
    job = create(client, training_file, suffix="done", finetree=OWN)
    assert (job.status, job.error) == ("succeeded", None)
    assert re.fullmatch(rf"ft:{MODEL}:default:done:{job.id.removeprefix('ftjob-')}", job.fine_tuned_model)
    assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
    metrics = client.files.content(job.result_files[0]).text.splitlines()
    assert metrics[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert [line.split(",")[0] for line in metrics[1:]] == [str(n) for n in range(1, len(metrics))]
    names = [client.files.retrieve(each) for each in job.result_files]
    assert names[0].filename == "step_metrics.csv"
    assert "adapter/adapter_config.json" in [file.filename for file in names]
    for file in names:
        content = client.files.content(file.id).content
        assert (len(content), file.purpose) == (file.bytes, "fine-tune-results")
    listed = {file.id for file in client.files.list(purpose="fine-tune-results")}
    assert set(job.result_files) <= listed
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.delete(job.result_files[1])
    assert caught.value.code == "FILE_KEPT"


def test_a_job_that_failed_says_why(client, suite, training_file):
    usual = suite.trainer.script
    suite.trainer.script = dataclasses.replace(usual, outcome="FAILED")
    try:
        job = create(client, training_file, finetree=OWN)
    finally:
        suite.trainer.script = usual
    assert (job.status, job.error.code, job.fine_tuned_model) == ("failed", "OUT_OF_MEMORY", None)
    assert "memory" in job.error.message


def test_a_running_job_is_cancelled(client, suite, training_file):
    usual = suite.trainer.script
    suite.trainer.script = dataclasses.replace(usual, hold_at=6)
    try:
        job = create(client, training_file, finetree=OWN)
        assert job.status not in ("succeeded", "failed", "cancelled")
        assert (job.fine_tuned_model, job.result_files, job.finished_at, job.trained_tokens) == (None, [], None, None)
        assert client.fine_tuning.jobs.cancel(job.id).id == job.id
    finally:
        suite.trainer.script = usual
    assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_jobs_are_listed_newest_first_in_pages_and_by_metadata(client, training_file):
    made = [
        create(client, training_file, metadata={"batch": "x", "no label!": str(n % 2)}, finetree=OWN).id
        for n in range(5)
    ]
    assert len(set(made)) == 5, "the same request, sent again on purpose, makes another job"
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)][:5] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2, metadata={"batch": "x"})] == made[::-1]
    odd = [job.id for job in client.fine_tuning.jobs.list(limit=1, metadata={"batch": "x", "no label!": "1"})]
    assert odd == [made[3], made[1]]
    bare = create(client, training_file, finetree=OWN).id
    without = client.fine_tuning.jobs.list(extra_query={"metadata": "null"})
    assert bare in [job.id for job in without]
    assert not set(made) & {job.id for job in without}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"method": {"type": "dpo"}}, ("METHOD_UNSUPPORTED", "method.type")),
        ({"method": {"type": "reinforcement"}}, ("METHOD_UNSUPPORTED", "method.type")),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, ("INTEGRATION_UNSUPPORTED", "integrations")),
        ({"model": f"ft:{MODEL}:default::0199"}, ("MODEL_NOT_TRAINABLE", "model")),
        ({"hyperparameters": {"n_epochs": 0}}, ("INVALID_REQUEST", "hyperparameters.n_epochs")),
        ({"hyperparameters": {"beta": 0.1}}, ("INVALID_REQUEST", "hyperparameters.beta")),
        ({"suffix": "a" * 65}, ("INVALID_REQUEST", "suffix")),
        ({"seed": -1}, ("INVALID_REQUEST", "seed")),
        ({"extra_body": {"n_epochs": 3}}, ("INVALID_REQUEST", "n_epochs")),
        ({"finetree": {"lora": {"rnk": 3}}}, ("INVALID_REQUEST", "finetree.lora.rnk")),
        ({"finetree": {"model": {"name": "other"}}}, ("INVALID_REQUEST", "finetree.model")),
        ({"finetree": {"dataset": {"name": "other"}}}, ("INVALID_REQUEST", "finetree.dataset")),
        ({"finetree": {"limits": {"max_cost": "cheap"}}}, ("INVALID_REQUEST", "finetree.limits.max_cost")),
        ({"finetree": {"recommend": {"quality": "divine"}}}, ("INVALID_REQUEST", "finetree.recommend.quality")),
        ({"finetree": {**OWN, "recommend": {"quality": "maximum"}}}, ("INVALID_REQUEST", "finetree.recommend")),
    ],
)
def test_a_request_that_is_refused_names_the_field(client, suite, training_file, fields, expected):
    before = len(suite.faults.calls("CreateJob"))
    error = refused(client, training_file, **fields)
    assert (error.code, error.param) == expected
    assert error.type == "invalid_request_error"
    assert len(suite.faults.calls("CreateJob")) == before


def test_a_file_that_is_not_there_is_refused(client, training_file):
    for fields, param in (
        ({"training_file": "file-0199"}, "training_file"),
        ({"validation_file": "f"}, "validation_file"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            create(client, training_file, **fields, finetree=OWN)
        assert (caught.value.code, caught.value.param) == ("FILE_NOT_FOUND", param)


def test_a_model_that_is_not_there_is_refused(client, training_file):
    with pytest.raises(openai.NotFoundError) as caught:
        create(client, training_file, model="gpt-4o-mini-2024-07-18", finetree=OWN)
    assert caught.value.code == "MODEL_NOT_FOUND"


def test_what_the_trainer_does_not_do_is_refused(client, training_file):
    job = create(client, training_file, finetree=OWN)
    for action, code in (
        (client.fine_tuning.jobs.pause, "JOB_NOT_PAUSABLE"),
        (client.fine_tuning.jobs.resume, "JOB_NOT_PAUSED"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            action(job.id)
        assert caught.value.code == code
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="ft:small:x:none", messages=[{"role": "user", "content": "?"}])
    assert (caught.value.code, caught.value.param) == ("NOT_SERVING", "model")
    assert "finetree serve" in caught.value.message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (finetree.ResourceExhausted("the queue is full", reason="QUEUE_FULL", retry_after=0.01), (429, 2)),
        (finetree.Internal("a fault", reason="INTERNAL_ERROR"), (500, 1)),
        (finetree.FailedPrecondition("prepare it first", reason="MODEL_NOT_PREPARED"), (400, 1)),
        (finetree.PermissionDenied("not yours", reason="PROJECT_FORBIDDEN"), (403, 1)),
        (finetree.Unauthenticated("who are you", reason="TOKEN_INVALID"), (401, 1)),
        (finetree.ResourceExhausted("no space", reason="DISK_FULL"), (507, 1)),
    ],
)
def test_the_client_tries_again_only_what_may_pass_by_itself(apart, error, expected):
    status, tries = expected
    suite, address = apart
    suite.faults.fail_next("CreateJob", error, times=100)  # the console's own client tries again too
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key="k", max_retries=1) as client:
        file = client.files.create(file=("train.jsonl", b'{"text": "a"}\n'), purpose="fine-tune").id
        with pytest.raises(openai.APIStatusError) as caught:
            create(client, file, finetree=OWN)
    asked = len(suite.faults.calls("ListJobs"))  # once in each request
    assert (caught.value.status_code, asked) == (status, tries)
    assert caught.value.code == error.reason


def test_models_are_the_base_models_by_name_and_what_jobs_made(client, suite, training_file):
    job = create(client, training_file, finetree=OWN)
    ids = [model.id for model in client.models.list()]
    assert "acme/small" in ids
    assert job.fine_tuned_model in ids
    assert client.models.retrieve("acme/small").owned_by == "acme"
    again = create(client, training_file, model="acme/small", finetree=OWN)
    assert message(suite, again).train.spec.model.hub.revision, "the commit that is on the machine"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_other_paths_are_refused_in_the_same_shape(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="m", input="x")
    assert caught.value.code == "PATH_NOT_FOUND"
    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.retrieve("ftjob-0199")
    assert caught.value.code == "JOB_NOT_FOUND"


def test_the_token_of_the_console_is_the_clients_api_key(suite, serving):
    with serving(suite, token="the console's own") as address:
        with openai.OpenAI(base_url=f"http://{address}/v1", api_key="the console's own") as client:
            assert client.models.list().data
        with (
            openai.OpenAI(base_url=f"http://{address}/v1", api_key="another") as client,
            pytest.raises(openai.AuthenticationError) as caught,
        ):
            client.models.list()
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        ({"content-type": "text/plain"}, b"{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content-type": "application/json"}, b"{", 400, "MALFORMED_REQUEST"),
        ({"content-type": "application/json"}, b"[]", 400, "MALFORMED_REQUEST"),
        ({"content-type": "application/json"}, b'{"model": "a", "model": "b"}', 400, "MALFORMED_REQUEST"),
        ({"content-type": "application/json", "origin": "https://elsewhere"}, b"{}", 403, "PERMISSION_DENIED"),
    ],
)
def test_a_body_that_is_no_json_from_here_is_refused(http, headers, content, status, code):
    answer = http.post("/v1/fine_tuning/jobs", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
