# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003, ANN202, PT012 - arguments are fields of protobuf messages; each case is one call
import grpc
import pytest
from finetree_api.trainer.v1 import artifact_pb2, event_log_pb2, trainer_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, model_pb2, run_spec_pb2, training_data_pb2, training_pb2
from trainer_harness import ROWS, job_request, jsonl, refusal, trainer

Spec = run_spec_pb2.RunSpec


def model(**source):
    def change(request):
        request.train.spec.model.CopyFrom(model_pb2.ModelSource(**source))

    return change


def spec(**fields):
    def change(request):
        request.train.spec.MergeFrom(Spec(**fields))

    return change


def data(**source):
    def change(request):
        request.train.spec.dataset.CopyFrom(training_data_pb2.DatasetSource(**source))

    return change


def without_method(request):
    request.train.spec.ClearField("lora")


def without_data(request):
    request.train.spec.ClearField("dataset")


SHAPE = model_pb2.ModelShape(hidden_size=8, layers=1, intermediate_size=8, attention_heads=1, vocab_size=8)
HUB = model_pb2.HubModel(id="acme/huge-70b")
PROFILE = training_data_pb2.DatasetProfile(examples=3)
GPU = hardware_pb2.Hardware(accelerator="rtx-9999")
MANY = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(), count=4096)
MICRO = training_pb2.Training(effective_batch_size=2, micro_batch_size=4)

CASES = {
    "unknown model": (model(name="smollm2-135m-instrct"), "NOT_FOUND", "MODEL_NOT_FOUND"),
    "shape": (model(shape=SHAPE), "INVALID_ARGUMENT", "MODEL_NOT_TRAINABLE"),
    "hub model": (model(hub=HUB), "FAILED_PRECONDITION", "MODEL_NOT_PREPARED"),
    "not prepared": (model(name="smollm2-135m-instruct"), "FAILED_PRECONDITION", "MODEL_NOT_PREPARED"),
    "model path with dots": (model(path="../rows"), "PERMISSION_DENIED", "PATH_OUTSIDE_ROOTS"),
    "absolute model path": (model(path="/etc"), "PERMISSION_DENIED", "PATH_OUTSIDE_ROOTS"),
    "model path that is too long": (model(path="m" * 1000), "NOT_FOUND", "MODEL_NOT_FOUND"),
    "missing model path": (model(path="nothing"), "NOT_FOUND", "MODEL_NOT_FOUND"),
    "prefix with checkpointing": (
        spec(
            prefix=method_pb2.PrefixTuning(),
            gradient_checkpointing=training_pb2.GRADIENT_CHECKPOINTING_FULL,
        ),
        "INVALID_ARGUMENT",
        "PREFIX_WITH_CHECKPOINTING",
    ),
    "GPTQ": (
        spec(qlora=method_pb2.Qlora(quantization=method_pb2.QUANTIZATION_GPTQ_INT4)),
        "INVALID_ARGUMENT",
        "SETTING_NOT_SUPPORTED",
    ),
    "no method": (without_method, "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "unknown GPU": (spec(hardware=GPU), "FAILED_PRECONDITION", "NO_SUCH_DEVICE"),
    "more processes than threads": (spec(hardware=MANY), "INVALID_ARGUMENT", "THREADS_TOO_FEW"),
    "no data": (without_data, "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "only a profile": (data(profile=PROFILE), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "unknown dataset": (data(name="0192"), "NOT_FOUND", "DATASET_NOT_FOUND"),
    "data path with dots": (data(path="../script.json"), "PERMISSION_DENIED", "PATH_OUTSIDE_ROOTS"),
    "data path with wrong rows": (data(path="wrong.jsonl"), "INVALID_ARGUMENT", "MALFORMED_ROW"),
    "micro-batch too large": (spec(training=MICRO), "INVALID_ARGUMENT", "MICRO_BATCH_TOO_LARGE"),
    "longer than the model": (
        spec(training=training_pb2.Training(sequence_length=513)),
        "INVALID_ARGUMENT",
        "SEQUENCE_TOO_LONG",
    ),
    "experts on a packed base": (
        spec(qlora=method_pb2.Qlora(lora=method_pb2.Lora(include_experts=True))),
        "INVALID_ARGUMENT",
        "SETTING_NOT_SUPPORTED",
    ),
    "experts with dropout": (
        spec(lora=method_pb2.Lora(include_experts=True, dropout=0.1)),
        "INVALID_ARGUMENT",
        "EXPERTS_WITH_DROPOUT",
    ),
    "experts with DoRA": (
        spec(lora=method_pb2.Lora(include_experts=True, weight_decomposed=True)),
        "INVALID_ARGUMENT",
        "EXPERTS_WITH_DORA",
    ),
    "the best of no evaluations": (
        spec(checkpoints=training_pb2.Checkpoints(keep_best=True)),
        "INVALID_ARGUMENT",
        "KEEP_BEST_WITHOUT_EVALUATION",
    ),
    "flash": (spec(attention=training_pb2.ATTENTION_KERNEL_FLASH), "INVALID_ARGUMENT", "SETTING_NOT_SUPPORTED"),
    "negative steps": (spec(training=training_pb2.Training(max_steps=-1)), "INVALID_ARGUMENT", "INVALID_REQUEST"),
}


async def test_what_cannot_run_is_refused_with_a_reason_and_nothing_is_created(tmp_path, serve):
    async with serve(tmp_path) as talk:
        talk.put_rows("wrong.jsonl", b'{"text": "fine"}\n{"text": 5}\n')
        dataset = (await talk.upload(jsonl(ROWS))).name
        for name, (change, code, reason) in CASES.items():
            request = job_request(dataset)
            change(request)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request, request_id=name.replace(" ", "-")))
            found = refusal(error.value)
            assert found[:2] == (code, reason), (name, error.value.details())
            assert str(tmp_path) not in error.value.details(), name
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs
        # What was refused has not used its request id up.
        again = trainer_pb2.CreateJobRequest(job=job_request(dataset), request_id="GPTQ")
        assert (await talk.stub.CreateJob(again)).job.name


async def test_a_format_that_is_many_times_slower_on_this_cpu_is_refused_with_the_measured_ratio(tmp_path):
    slow = {"bf16": 22e9, "bf16_backward": 0.9e9, "fp32": 96e9, "fp32_backward": 96e9}
    async with trainer(tmp_path, {"profile": slow, "steps": 1}, prewarm=True) as talk:
        await talk.measured()
        request = job_request((await talk.upload(jsonl(ROWS))).name)
        request.train.spec.precision = training_pb2.PRECISION_BF16
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))
        code, reason, info = refusal(error.value)[:3]
        assert (code, reason) == ("INVALID_ARGUMENT", "NUMBER_FORMAT_TOO_SLOW")
        assert info.metadata["times_slower"] == "55.5"
        assert "leave precision unset or take fp32" in error.value.details()
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs

        request.train.spec.ClearField("precision")
        job = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job
        assert job.train.spec.precision == training_pb2.PRECISION_FP32


async def test_a_wrong_name_suggests_the_near_one(tmp_path, serve):
    async with serve(tmp_path) as talk:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            request = job_request((await talk.upload(jsonl(ROWS))).name)
            request.train.spec.model.name = "smollm2-135m-instrct"
            await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))
        assert refusal(error.value)[2].metadata["near"] == "smollm2-135m-instruct"


async def test_a_model_path_by_a_link_is_outside(tmp_path):
    async with trainer(tmp_path) as talk:
        (tmp_path / "models" / "link").symlink_to("/etc")
        request = job_request((await talk.upload(jsonl(ROWS))).name, "link")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))
        assert refusal(error.value)[:2] == ("PERMISSION_DENIED", "PATH_OUTSIDE_ROOTS")


async def test_a_row_of_a_path_is_named(tmp_path, serve):
    async with serve(tmp_path) as talk:
        talk.put_rows("wrong.jsonl", b'{"text": "fine"}\n{"text": 5}\n')
        request = job_request("")
        request.train.spec.dataset.path = "wrong.jsonl"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))
        _, _, info, faults = refusal(error.value)
        assert info.metadata["row"] == "2"
        assert faults[0].field == "job.train.spec.dataset.rows[2].text"


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        ("GetJob", trainer_pb2.GetJobRequest(name="0192"), "JOB_NOT_FOUND"),
        ("CancelJob", trainer_pb2.CancelJobRequest(name="0192"), "JOB_NOT_FOUND"),
        ("ListEvents", event_log_pb2.ListEventsRequest(name="0192"), "JOB_NOT_FOUND"),
        ("ListArtifacts", artifact_pb2.ListArtifactsRequest(parent="0192"), "JOB_NOT_FOUND"),
        ("GetJob", trainer_pb2.GetJobRequest(name="projects/x/datasets/y"), "INVALID_NAME"),
    ],
)
async def test_what_is_not_there_is_said_so(tmp_path, serve, method, request_, reason):
    async with serve(tmp_path) as talk:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await getattr(talk.stub, method)(request_)
        assert refusal(error.value)[1] == reason


async def test_devices_that_do_not_spread_over_the_machines_are_refused(tmp_path, monkeypatch):
    from finetree_trainer.scheduling import devices

    hardware = hardware_pb2.Hardware(accelerator="h100", count=1)
    cards = tuple(devices.Device("n", f"cuda:{index}", hardware, "H100", 80 << 30) for index in range(3))
    monkeypatch.setattr(devices, "discover", lambda *_: devices.Node("n", cards))
    async with trainer(tmp_path) as talk:
        request = job_request((await talk.upload(jsonl(ROWS))).name)
        for nodes, reason in ((2, "NODES_UNEVEN"), (3, "SETTING_NOT_SUPPORTED")):
            request.train.spec.hardware.CopyFrom(hardware_pb2.Hardware(accelerator="h100", count=3, nodes=nodes))
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))
            assert refusal(error.value)[1] == reason


async def test_a_request_whose_job_was_deleted_is_refused(tmp_path):
    from finetree_trainer.store import schema
    from sqlalchemy import delete

    async with trainer(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        job = await talk.train(dataset=dataset, request_id="once", suspended=True)
        chosen = schema.jobs.c.uid == job.uid
        await talk.application._store.write(lambda connection: connection.execute(delete(schema.jobs).where(chosen)))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.train(dataset=dataset, request_id="once", suspended=True)
        assert refusal(error.value)[:2] == ("FAILED_PRECONDITION", "JOB_DELETED")


async def test_a_full_queue_is_refused(tmp_path, serve):
    async with serve(tmp_path, max_queued=2) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        for _ in range(2):
            await talk.train(dataset=dataset, suspended=True)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.train(dataset=dataset, suspended=True)
        assert refusal(error.value)[:2] == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
