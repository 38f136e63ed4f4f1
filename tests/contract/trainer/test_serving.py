# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003, ASYNC110 - fields of messages; a file that a worker writes sets no event
"""A base model that is served: its states, its answers, its targets, and how they are refused."""

import asyncio
import json
from pathlib import Path

import grpc.aio
import pytest
from finetree_api.trainer.v1 import capacity_pb2, evaluation_pb2, event_pb2, job_pb2, serving_pb2, trainer_pb2
from finetree_api.types.v1 import method_pb2, training_pb2, weights_pb2
from google.protobuf import duration_pb2
from trainer_harness import ROWS, Template, assert_whole, job_request, jsonl, refusal, states, trainer

READY = event_pb2.EVENT_KIND_SERVING_CHANGED
ALL = frozenset({job_pb2.JOB_ACTION_CANCEL, job_pb2.JOB_ACTION_GENERATE})


def put_adapter(tmp_path: Path, name: str, *, base: str = "acme/tiny", extra: int = 0) -> serving_pb2.ServeTarget:
    """A LoRA as peft saves it, under the model root, and the target that names it."""
    folder = tmp_path / "models" / name
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": base, "of": name}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    size = 16 + extra
    header = json.dumps(
        {"base_model.model.x.lora_A.weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    )
    content = len(header).to_bytes(8, "little") + header.encode() + bytes(size)
    (folder / "adapter_model.safetensors").write_bytes(content)
    return serving_pb2.ServeTarget(name=name, weights=weights_pb2.TrainedWeights(path=name))


def serve_request(*targets: serving_pb2.ServeTarget, **settings) -> trainer_pb2.CreateJobRequest:
    task = serving_pb2.ServeTask(targets=targets, **settings)
    task.model.path = "tiny"
    if not task.HasField("max_context_tokens"):
        task.max_context_tokens = 64
    return trainer_pb2.CreateJobRequest(job=job_pb2.JobTemplate(serve=task))


async def serving(talk, *targets: serving_pb2.ServeTarget, **settings) -> job_pb2.Job:
    """A job that answers."""
    job = (await talk.stub.CreateJob(serve_request(*targets, **settings))).job
    await talk.until(job.name, lambda event: event.kind == READY)
    return await talk.job(job.name)


def request_of(job: job_pb2.Job, prompt: str = "one two", *targets: str, **fields) -> serving_pb2.GenerateRequest:
    return serving_pb2.GenerateRequest(job=job.name, prompt=prompt, targets=targets, **fields)


async def answers(talk, request: serving_pb2.GenerateRequest) -> tuple[dict[str, str], serving_pb2.GenerationUsage]:
    """Each target's answer by its name, and the usage that ends the stream."""
    responses = [response async for response in talk.stub.Generate(request)]
    names = list(responses[0].targets)
    texts = dict.fromkeys(names, "")
    for response in responses:
        for piece in response.pieces:
            texts[names[piece.target_index]] += piece.text
    assert [response.HasField("usage") for response in responses] == [*[False] * (len(responses) - 1), True]
    return texts, responses[-1].usage


async def refused(call) -> tuple[str, str]:
    """Code and reason of a call's error."""
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return refusal(error)[:2]
    raise AssertionError("the call was answered")


def load_request(job: job_pb2.Job, target: serving_pb2.ServeTarget, key: str = "") -> serving_pb2.LoadTargetRequest:
    return serving_pb2.LoadTargetRequest(job=job.name, target=target, request_id=key)


async def test_a_job_that_serves_answers_with_the_base_and_its_targets_until_it_is_cancelled(tmp_path):
    async with trainer(tmp_path) as talk:
        job = await serving(talk, put_adapter(tmp_path, "support"), put_adapter(tmp_path, "sales"))
        assert job.state == job_pb2.JOB_STATE_RUNNING
        assert set(job.allowed_actions) == ALL
        assert (job.base.hub_id, job.state_reason.code) == ("acme/tiny", "SERVING")
        assert [target.name for target in job.serve.loaded] == ["support", "sales"]
        texts, usage = await answers(talk, request_of(job))
        assert texts == {name: f"{name}:one two 0 1 2 " for name in ("base", "support", "sales")}
        assert usage.new_tokens == 5
        said = serving_pb2.ChatMessage(role=serving_pb2.CHAT_ROLE_USER, content="hello there")
        chat = serving_pb2.GenerateRequest(job=job.name, targets=["sales", ""])
        chat.conversation.messages.append(said)
        chat.sampling.max_new_tokens = 1
        assert (await answers(talk, chat))[0] == {"sales": "sales:hello ", "base": "base:hello "}
        await talk.cancel(job.name)
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "CANCELLING", "CANCELLED"]
        assert await refused(talk.stub.Generate(request_of(job))) == ("FAILED_PRECONDITION", "NOT_SERVING")


async def test_what_is_unset_takes_the_documented_default_and_what_it_needs_is_known_before(tmp_path):
    async with trainer(tmp_path) as talk:
        request = serve_request(put_adapter(tmp_path, "support"))
        request.job.serve.ClearField("max_context_tokens")
        asked = trainer_pb2.ValidateJobRequest(job=request.job)
        planned = await talk.stub.ValidateJob(asked)
        task = planned.serve
        assert (task.lease.seconds, task.yield_after.seconds) == (600, 60)
        assert (task.max_parallel, task.max_context_tokens) == (8, 512)  # the positions of the model
        assert task.precision == training_pb2.PRECISION_BF16
        assert len(task.targets[0].weights.sha256) == 64
        (check,) = planned.checks
        assert check.measured.expected == planned.estimate.device_bytes.expected > 900_000_000
        assert "process 0.84" in check.message
        request.job.serve.max_context_tokens = 513
        assert await refused(talk.stub.CreateJob(request)) == ("INVALID_ARGUMENT", "SEQUENCE_TOO_LONG")


async def test_targets_are_loaded_and_removed_while_it_answers(tmp_path):
    async with trainer(tmp_path) as talk:
        job = await serving(talk)
        assert (await answers(talk, request_of(job)))[0] == {"base": "base:one two 0 1 2 "}
        target = put_adapter(tmp_path, "late")
        loaded = (await talk.stub.LoadTarget(load_request(job, target, "key"))).target
        assert (loaded.name, loaded.size_bytes, len(loaded.weights.sha256)) == ("late", 1000, 64)
        assert (await talk.stub.LoadTarget(load_request(job, target, "key"))).target == loaded
        assert (await talk.stub.LoadTarget(load_request(job, target))).target == loaded
        assert (await answers(talk, request_of(job, "x", "late")))[0] == {"late": "late:x 0 1 2 "}
        foreign = put_adapter(tmp_path, "foreign", base="acme/other")
        assert await refused(talk.stub.LoadTarget(load_request(job, foreign))) == ("INVALID_ARGUMENT", "WRONG_BASE")
        other = serving_pb2.ServeTarget(name="late", weights=put_adapter(tmp_path, "other").weights)
        assert await refused(talk.stub.LoadTarget(load_request(job, other, "key"))) == (
            "ALREADY_EXISTS",
            "REQUEST_ID_REUSED",
        )
        assert await refused(talk.stub.LoadTarget(load_request(job, other))) == ("ALREADY_EXISTS", "TARGET_EXISTS")
        listed = await talk.stub.ListTargets(serving_pb2.ListTargetsRequest(job=job.name))
        assert list(listed.targets) == [loaded]
        gone = serving_pb2.UnloadTargetRequest(job=job.name, target="late", request_id="gone")
        await talk.stub.UnloadTarget(gone)
        await talk.stub.UnloadTarget(gone)
        gone.request_id = ""
        assert await refused(talk.stub.UnloadTarget(gone)) == ("NOT_FOUND", "TARGET_NOT_LOADED")
        assert await refused(talk.stub.Generate(request_of(job, "x", "late"))) == ("NOT_FOUND", "TARGET_NOT_LOADED")
        assert not (await talk.job(job.name)).serve.loaded


async def test_what_cannot_be_served_is_refused_and_nothing_is_created(tmp_path):
    async with trainer(tmp_path) as talk:
        support = put_adapter(tmp_path, "support")
        foreign = put_adapter(tmp_path, "foreign", base="acme/other")
        missing = serving_pb2.ServeTarget(name="none", weights=weights_pb2.TrainedWeights(path="none"))
        outside = serving_pb2.ServeTarget(name="out", weights=weights_pb2.TrainedWeights(path="../../etc"))
        changed = put_adapter(tmp_path, "changed")
        changed.weights.sha256 = "0" * 64
        base = serving_pb2.ServeTarget(name="base", weights=support.weights)
        (tmp_path / "models/pickled").mkdir()
        (tmp_path / "models/pickled/adapter_model.bin").write_bytes(b"")
        pickled = serving_pb2.ServeTarget(name="p", weights=weights_pb2.TrainedWeights(path="pickled"))
        empty = serving_pb2.ServeTarget(name="e", weights=weights_pb2.TrainedWeights(path="tiny"))
        gone = "jobs/01890000-0000-7000-8000-000000000000"
        job = serving_pb2.ServeTarget(
            name="j", weights=weights_pb2.TrainedWeights(artifact=f"projects/default/{gone}/artifacts/a")
        )
        for request, wanted in (
            (serve_request(foreign), ("INVALID_ARGUMENT", "WRONG_BASE")),
            (serve_request(missing), ("NOT_FOUND", "WEIGHTS_NOT_FOUND")),
            (serve_request(outside), ("PERMISSION_DENIED", "PATH_OUTSIDE_ROOTS")),
            (serve_request(changed), ("FAILED_PRECONDITION", "WEIGHTS_CHANGED")),
            (serve_request(pickled), ("INVALID_ARGUMENT", "MODEL_PICKLED")),
            (serve_request(empty), ("INVALID_ARGUMENT", "WEIGHTS_UNREADABLE")),
            (serve_request(job), ("NOT_FOUND", "JOB_NOT_FOUND")),
            (serve_request(support, support), ("INVALID_ARGUMENT", "INVALID_REQUEST")),
            (serve_request(base), ("INVALID_ARGUMENT", "INVALID_REQUEST")),
            (serve_request(precision=training_pb2.PRECISION_BF16_MIXED), ("INVALID_ARGUMENT", "SETTING_NOT_SUPPORTED")),
            (serve_request(lease=duration_pb2.Duration(seconds=9)), ("INVALID_ARGUMENT", "INVALID_REQUEST")),
            (serve_request(max_parallel=0), ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        ):
            assert await refused(talk.stub.CreateJob(request)) == wanted, request
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs


@pytest.mark.parametrize("quantization", [method_pb2.QUANTIZATION_INT8, method_pb2.QUANTIZATION_NF4], ids=["8", "4"])
async def test_a_checkpoint_of_whole_weights_is_refused_for_a_quantized_base_before_a_worker_loads_it(
    tmp_path, quantization
):
    async with trainer(tmp_path, {"steps": 2, "checkpoints": [2]}) as talk:
        rows = (await talk.upload(jsonl(ROWS))).name
        request = job_request(rows)
        request.train.spec.full.SetInParent()
        trained = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job
        await talk.events(trained.name)
        checkpoint = weights_pb2.TrainedWeights(checkpoint=f"{trained.name}/checkpoints/2")
        target = serving_pb2.ServeTarget(name="whole", weights=checkpoint)
        evaluation = evaluation_pb2.EvaluateTask(subjects=[{"weights": checkpoint}], quantization=quantization)
        evaluation.dataset.name = rows
        job = await serving(talk, quantization=quantization)
        calls = (
            (talk.stub.CreateJob(serve_request(target, quantization=quantization)), "job.serve.targets[0].weights"),
            (
                talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=Template(evaluate=evaluation))),
                "job.evaluate.subjects[0].weights",
            ),
            (talk.stub.LoadTarget(load_request(job, target)), "target.weights"),
        )
        for call, field in calls:
            with pytest.raises(grpc.aio.AioRpcError, match="without quantization, or name the job's artifact") as error:
                await call
            code, reason, _, violations = refusal(error.value)
            assert (code, reason, violations[0].field) == ("INVALID_ARGUMENT", "WEIGHTS_MISMATCH", field)
        assert len((await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs) == 2
        # On a base as it is stored they are welcome.
        await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=serve_request(target).job))


async def test_a_base_model_that_does_not_fit_beside_what_runs_is_refused_with_figures(tmp_path):
    async with trainer(tmp_path) as talk:
        config = tmp_path / "models/tiny/config.json"
        shape = {"num_hidden_layers": 96, "hidden_size": 12288, "num_attention_heads": 96, "vocab_size": 50000}
        config.write_text(json.dumps(json.loads(config.read_text()) | shape))
        request = serve_request(max_parallel=256, max_context_tokens=512)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.CreateJob(request)
        code, reason, info, _ = refusal(error.value)
        assert (code, reason) == ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY_PREFLIGHT")
        cache = 2 * 96 * 12288 * 2 * 512 * 256
        assert int(info.metadata["needed_bytes"]) > cache > int(info.metadata["free_bytes"])
        assert f"key-value cache {cache / 2**30:.2f}" in error.value.details()


async def test_what_the_worker_refuses_ends_with_its_reason(tmp_path):
    async with trainer(tmp_path, {"most_targets": 1}) as talk:
        job = await serving(talk)
        for reason, code in (
            ("PROMPT_TOO_LONG", "INVALID_ARGUMENT"),
            ("NO_CHAT_TEMPLATE", "INVALID_ARGUMENT"),
            ("TEMPLATE_REFUSED_ROW", "INVALID_ARGUMENT"),
            ("WEIGHTS_MISMATCH", "INVALID_ARGUMENT"),
            ("OUT_OF_MEMORY_PREFLIGHT", "RESOURCE_EXHAUSTED"),
        ):
            assert await refused(talk.stub.Generate(request_of(job, f"refuse {reason}"))) == (code, reason)
        assert await refused(talk.stub.Generate(request_of(job, "refuse X"))) == ("INTERNAL", "GENERATION_FAILED")
        one, two = put_adapter(tmp_path, "one"), put_adapter(tmp_path, "two")
        await talk.stub.LoadTarget(load_request(job, one))
        assert await refused(talk.stub.LoadTarget(load_request(job, two))) == ("RESOURCE_EXHAUSTED", "TARGET_LIMIT")
        unasked = serving_pb2.GenerateRequest(job=job.name)
        assert await refused(talk.stub.Generate(unasked)) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        twice = request_of(job, "x", "base", "")
        assert await refused(talk.stub.Generate(twice)) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        trained = await talk.prepare()
        assert await refused(talk.stub.Generate(request_of(trained))) == ("FAILED_PRECONDITION", "NOT_SERVING")
        listing = talk.stub.ListTargets(serving_pb2.ListTargetsRequest(job=trained.name))
        assert await refused(listing) == ("FAILED_PRECONDITION", "NOT_SERVING")


async def test_a_call_that_is_cancelled_is_cancelled_at_the_worker_and_gives_its_place_back(tmp_path):
    async with trainer(tmp_path, {"words": 2000, "piece_delay": 0.01}) as talk:
        job = await serving(talk, max_parallel=1)
        calls = [talk.stub.Generate(request_of(job)) for _ in range(4)]
        for call in calls:
            await call.read()
        capacity = await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
        (lease,) = capacity.nodes[0].devices[-1].leases
        assert (lease.job, lease.generations) == (job.name, 4)
        assert await refused(talk.stub.Generate(request_of(job))) == ("RESOURCE_EXHAUSTED", "TOO_MANY_GENERATIONS")
        for call in calls:
            call.cancel()
        told = tmp_path / "data/jobs" / job.uid / "attempts/1/cancelled.txt"
        async with asyncio.timeout(60):
            while not told.exists() or len(told.read_text().split()) < 4:
                await asyncio.sleep(0.01)
        listed = await talk.stub.ListTargets(serving_pb2.ListTargetsRequest(job=job.name))
        assert listed.lease.generations == 0
        assert (await talk.stub.Generate(request_of(job)).read()).pieces


async def test_a_served_base_model_gives_way_to_a_job_that_waits_and_says_so(tmp_path):
    async with trainer(tmp_path) as talk:
        job = await serving(talk, yield_after=duration_pb2.Duration(nanos=1))
        held = await talk.job((await talk.train()).name)
        events = await talk.events(job.name)
        assert states(events)[-1] == "SUCCEEDED"
        assert events[-2].state_changed.reason.code == "LEASE_YIELDED"
        assert f"{job.name} serves a model and gives way" in held.blocked_by
        trained = await talk.events(held.name)
        assert states(trained)[-1] == "SUCCEEDED"
        assert await refused(talk.stub.Generate(request_of(job))) == ("FAILED_PRECONDITION", "LEASE_EXPIRED")
        listed = await talk.stub.ListTargets(serving_pb2.ListTargetsRequest(job=job.name))
        assert listed == serving_pb2.ListTargetsResponse()


async def test_running_answers_end_with_unavailable_where_the_service_stops(tmp_path):
    async with trainer(tmp_path, {"words": 2000, "piece_delay": 0.01}) as talk:
        job = await serving(talk)
        call = talk.stub.Generate(request_of(job))
        await call.read()
        stopping = asyncio.ensure_future(talk.application.drain())
        assert await refused(call) == ("UNAVAILABLE", "SERVER_STOPPING")
        await stopping
