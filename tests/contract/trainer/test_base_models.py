# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003, ANN202 - the arguments are fields of protobuf messages
"""Base models: which one a spec means, what is on the machine, and what may be deleted."""

import grpc
import pytest
from finetree_api.trainer.v1 import base_model_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import model_pb2
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.config.values import Secret
from finetree_trainer.models import hub
from finetree_trainer.settings import Settings
from trainer_harness import ROWS, FixedEstimator, job_request, jsonl, put_model, refusal, trainer

ONE, TWO = "1" * 40, "2" * 40


def put(tmp_path, commit=ONE, *, refs=("main",), partial=False):
    """The model of these tests as a PREPARE task leaves it."""
    return put_model(tmp_path, "acme/Small-1B", commit, refs=refs, partial=partial)


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


async def train(talk, **source):
    """A suspended job that trains a model."""
    request = job_request((await talk.upload(jsonl(ROWS))).name, suspended=True)
    request.train.spec.model.CopyFrom(model_pb2.ModelSource(**source))
    return (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job


async def prepare(talk, **source):
    """A suspended job that prepares a model."""
    task = job_pb2.PrepareTask(model=model_pb2.ModelSource(**source))
    request = job_pb2.JobTemplate(prepare=task, suspended=True)
    return (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job


async def build(talk, job):
    """The task that a job's next attempt gets."""
    cpu = next(each for each in talk.application._hardware.devices if each.id == "cpu")
    return await talk.application._supervisor._tasks.build(job.uid, cpu.slots())


async def listed(talk, **page):
    answer = await talk.stub.ListBaseModels(base_model_pb2.ListBaseModelsRequest(**page))
    return [model.name for model in answer.base_models], answer.next_page_token


async def test_models_are_listed_by_name_with_what_their_folders_say(tmp_path):
    put(tmp_path, refs=("main", "v1"))
    put(tmp_path, TWO, refs=(), partial=True)
    async with trainer(tmp_path) as talk:
        found = (await talk.stub.ListBaseModels(base_model_pb2.ListBaseModelsRequest())).base_models
        whole, partial, path = found
        assert whole.name == f"models/acme--small-1b@{ONE}"
        assert (whole.hub_id, whole.revision, list(whole.refs)) == ("acme/Small-1B", ONE, ["main", "v1"])
        assert (whole.model_type, whole.max_positions, whole.vocab_size) == ("llama", 512, 64)
        assert whole.source.hub.id == "acme/Small-1B"
        assert (whole.state, partial.state) == (
            base_model_pb2.BASE_MODEL_STATE_READY,
            base_model_pb2.BASE_MODEL_STATE_PARTIAL,
        )
        assert (path.name, path.origin, path.hub_id) == (
            "models/path:tiny",
            base_model_pb2.BASE_MODEL_ORIGIN_PATH,
            "acme/tiny",
        )
        first, token = await listed(talk, page_size=2)
        rest, end = await listed(talk, page_size=2, page_token=token)
        assert first + rest == [whole.name, partial.name, path.name]
        assert not end


@pytest.mark.parametrize(
    "config", ['{"a":' * 100_000 + "1" + "}" * 100_000, "[]", "{", "\x00"], ids=["deep", "list", "cut", "bytes"]
)
async def test_a_config_that_cannot_be_read_hides_no_model(tmp_path, config):
    async with trainer(tmp_path) as talk:
        folder = tmp_path / "models" / "odd"
        folder.mkdir()
        (folder / "config.json").write_text(config)
        listed = await talk.stub.ListBaseModels(base_model_pb2.ListBaseModelsRequest())
        assert [model.name for model in listed.base_models] == ["models/path:odd", "models/path:tiny"]


async def test_a_model_is_found_by_name_hub_id_branch_and_beginning_of_a_commit(tmp_path, serve):
    async with serve(tmp_path) as talk:
        talk.put_model("acme/Small-1B", ONE, refs=("v1",))
        talk.put_model("acme/Small-1B", TWO, refs=("main",))

        async def get(name):
            return (await talk.stub.GetBaseModel(base_model_pb2.GetBaseModelRequest(name=name))).base_model.revision

        assert await get(f"models/acme--small-1b@{ONE}") == ONE
        assert await get("acme/small-1b@v1") == ONE
        assert await get("acme/Small-1B@2222222") == TWO
        answer = talk.stub.GetBaseModel(base_model_pb2.GetBaseModelRequest(name="acme/small-1b"))
        assert (await refused(answer))[:2] == ("INVALID_ARGUMENT", "MODEL_AMBIGUOUS")
        code, reason, info, _ = await refused(
            talk.stub.GetBaseModel(base_model_pb2.GetBaseModelRequest(name="acme/smal-1b"))
        )
        assert (code, reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert "acme/Small-1B" in info.metadata["near"]


async def test_a_deleted_model_is_gone_from_the_disk(tmp_path):
    folder = put(tmp_path)
    async with trainer(tmp_path) as talk:
        await talk.stub.DeleteBaseModel(base_model_pb2.DeleteBaseModelRequest(name="acme/small-1b"))
        assert not folder.parent.exists()
        assert not list((tmp_path / "data" / "models").glob(".*.deleted"))
        again = talk.stub.DeleteBaseModel(base_model_pb2.DeleteBaseModelRequest(name="acme/small-1b"))
        assert (await refused(again))[:2] == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def test_a_repeated_deletion_gets_the_same_answer(tmp_path, serve):
    async with serve(tmp_path) as talk:
        talk.put_model("acme/Small-1B", ONE)
        request = base_model_pb2.DeleteBaseModelRequest(name="acme/small-1b", request_id="once")
        first = await talk.stub.DeleteBaseModel(request)
        assert await talk.stub.DeleteBaseModel(request) == first
        talk.put_model("acme/Small-1B", ONE)
        assert await talk.stub.DeleteBaseModel(request) == first
        assert await listed(talk) == ([f"models/acme--small-1b@{ONE}", "models/path:tiny"], "")
        other = base_model_pb2.DeleteBaseModelRequest(name="models/path:tiny", request_id="once")
        assert (await refused(talk.stub.DeleteBaseModel(other)))[:2] == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_a_model_that_a_job_needs_or_the_operator_keeps_is_not_deleted(tmp_path, serve):
    async with serve(tmp_path) as talk:
        talk.put_model("acme/Small-1B", ONE)
        job = await train(talk, hub=model_pb2.HubModel(id="ACME/small-1b"))

        def delete(name):
            return talk.stub.DeleteBaseModel(base_model_pb2.DeleteBaseModelRequest(name=name))

        code, reason, info, _ = await refused(delete("acme/small-1b"))
        assert (code, reason, info.metadata["job"]) == ("FAILED_PRECONDITION", "MODEL_IN_USE", job.name)
        assert (await refused(delete("models/path:tiny")))[:2] == ("FAILED_PRECONDITION", "MODEL_NOT_OURS")
        assert f"models/acme--small-1b@{ONE}" in (await listed(talk))[0]
        await talk.cancel(job.name)
        await delete("acme/small-1b")
        assert await listed(talk) == (["models/path:tiny"], "")


async def test_a_download_that_waits_keeps_what_a_cut_one_has_left(tmp_path):
    put(tmp_path, refs=(), partial=True)
    async with trainer(tmp_path) as talk:
        await prepare(talk, hub=model_pb2.HubModel(id="acme/Small-1B"))
        answer = talk.stub.DeleteBaseModel(base_model_pb2.DeleteBaseModelRequest(name="acme/small-1b"))
        assert (await refused(answer))[1] == "MODEL_IN_USE"


async def test_a_job_keeps_the_commit_that_its_branch_was_when_it_was_created(tmp_path):
    put(tmp_path, ONE)
    async with trainer(tmp_path) as talk:
        job = await train(talk, hub=model_pb2.HubModel(id="acme/Small-1B"))
        assert (job.base.hub_id, job.base.revision) == ("acme/Small-1B", ONE)
        put(tmp_path, TWO)
        task = await build(talk, job)
        assert task.base.model_dir.endswith(f"/acme--small-1b/{ONE}")
        assert (task.base.hub_id, task.base.hub_revision) == ("acme/Small-1B", ONE)
        newer = await train(talk, hub=model_pb2.HubModel(id="acme/Small-1B"))
        assert newer.base.revision == TWO


async def test_the_token_goes_to_the_task_that_downloads_and_nowhere_else(tmp_path):
    put(tmp_path)
    settings = {"hub_token": Secret("hub-secret"), "hub_endpoint": "http://127.0.0.1:1/"}
    async with trainer(tmp_path, **settings) as talk:
        model = {"hub": model_pb2.HubModel(id="acme/Small-1B", revision="v2")}
        fetching = await prepare(talk, **model)
        training = await train(talk, hub=model_pb2.HubModel(id="acme/Small-1B"))
        task = await build(talk, fetching)
        assert task.base.origin == "hub:acme/Small-1B@v2"
        assert task.base.model_dir.endswith("/models/hub/acme--small-1b")
        assert (task.hub.endpoint, task.hub.token) == ("http://127.0.0.1:1", "hub-secret")
        assert "hub-secret" not in str(await build(talk, training))
        assert "hub-secret" not in str(fetching)
    kept = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if b"hub-secret" in path.read_bytes()]


async def test_a_name_of_the_catalog_is_a_model_of_the_hub(tmp_path):
    async with trainer(tmp_path) as talk:
        job = await prepare(talk, name="ACME-small-1b")
        task = await build(talk, job)
        assert task.base.origin == "hub:acme/Small-1B@main"
        code, reason, _, faults = await refused(train(talk, name="acme-small-1b"))
        assert (code, reason) == ("FAILED_PRECONDITION", "MODEL_NOT_PREPARED")
        assert "finetree models pull acme/Small-1B" in faults[0].description
        put(tmp_path)
        assert (await train(talk, name="acme-small-1b")).base.revision == ONE
        assert (await train(talk, name="ACME small 1b")).base.revision == ONE


async def test_without_a_catalog_a_name_is_refused_with_what_to_do(tmp_path):
    from finetree_trainer.estimator import EstimateUnavailableError

    class Down(FixedEstimator):
        async def catalog(self):
            raise EstimateUnavailableError("UNAVAILABLE")

    async with trainer(tmp_path, estimator=Down()) as talk:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await train(talk, name="acme-small-1b")
        assert refusal(error.value)[:2] == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert "hub.id" in error.value.details()


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"id": "../../etc"}, "id"),
        ({"id": "acme/.."}, "id"),
        ({"id": "acme/a/b"}, "id"),
        ({"id": "acme/tiny", "revision": "../x"}, "revision"),
        ({"id": "acme/tiny", "revision": "a b"}, "revision"),
    ],
)
async def test_what_cannot_be_a_hub_id_or_revision_is_refused_by_its_field(tmp_path, serve, model, field):
    async with serve(tmp_path) as talk:
        answer = prepare(talk, hub=model_pb2.HubModel(**model))
        code, _, _, faults = await refused(answer)
        assert code == "INVALID_ARGUMENT"
        assert faults[0].field == f"job.prepare.model.hub.{field}"


def test_the_hub_is_the_setting_or_the_environments_or_the_public_one():
    def endpoint(setting="", environment=""):
        return hub.hub_access(Settings(hub_endpoint=setting), {"HF_ENDPOINT": environment}).endpoint

    assert endpoint() == "https://huggingface.co"
    assert endpoint(environment="https://mirror.example/") == "https://mirror.example"
    assert endpoint("https://own.example", "https://mirror.example") == "https://own.example"
    with pytest.raises(SettingsError, match="hub_endpoint"):
        endpoint("ftp://own.example")


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, ""),
        ({"HTTPS_PROXY": "http://proxy:1", "HTTP_PROXY": "http://other:2"}, "http://proxy:1"),
        ({"all_proxy": "http://proxy:1"}, "http://proxy:1"),
        ({"https_proxy": "http://proxy:1", "no_proxy": "localhost, .huggingface.co"}, ""),
        ({"https_proxy": "http://proxy:1", "no_proxy": "face.co"}, "http://proxy:1"),
    ],
)
def test_the_proxy_is_the_environments_for_the_hubs_scheme_and_host(environment, proxy):
    assert hub.hub_access(Settings(), environment).proxy == proxy
