# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - fields of messages
"""Exports as jobs: what a worker is told, what a client sees, and what is refused before anything is created."""

import json
from pathlib import Path

import grpc.aio
import pytest
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import weights_pb2
from finetree_api.worker.v1 import worker_pb2
from trainer_harness import refusal, trainer, write_script

PHASES = [job_pb2.JOB_PHASE_MERGE, job_pb2.JOB_PHASE_EXPORT, job_pb2.JOB_PHASE_VERIFY]
REPORT = {"prompts": 3, "merged": True}
GGUF, GGUF_LORA = artifact_pb2.EXPORT_FORMAT_GGUF, artifact_pb2.EXPORT_FORMAT_GGUF_LORA
Q8_0 = artifact_pb2.WEIGHT_TYPE_Q8_0


def request_of(request_id: str = "", **fields) -> trainer_pb2.CreateJobRequest:
    task = job_pb2.ExportTask(**fields)
    return trainer_pb2.CreateJobRequest(job=job_pb2.JobTemplate(export=task), request_id=request_id)


def put_weights(tmp_path: Path, name: str, config: dict, file: str = "adapter_model.safetensors") -> dict:
    """An adapter of one tensor under the model root; the fields that name it."""
    folder = tmp_path / "models" / name
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    header = json.dumps({"x.lora_A.weight": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}})
    (folder / file).write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(16))
    return {"weights": weights_pb2.TrainedWeights(path=name)}


def lora(**changes) -> dict:
    return {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "acme/tiny"} | changes


async def refused(call) -> tuple[str, str]:
    """Code and reason of a call's error."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return refusal(raised.value)[:2]


async def test_an_export_is_a_job_with_phases_a_report_and_the_hash_of_what_it_exports(tmp_path):
    async with trainer(tmp_path, {"weights": True}) as talk:
        trained = await talk.train()
        await talk.events(trained.name)
        write_script(tmp_path, {"steps": 0, "phases": PHASES, "export": REPORT})
        artifact = f"{trained.name}/artifacts/adapter"
        request = request_of("again", artifact=artifact)
        job = (await talk.stub.CreateJob(request)).job
        assert (await talk.stub.CreateJob(request)).job.name == job.name
        events = await talk.events(job.name)
        (report,) = [event.export_report for event in events if event.HasField("export_report")]
        assert (report.prompts, report.merged) == (3, True)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        entered = [event.state_changed.reason.code for event in events if event.HasField("state_changed")]
        assert entered == ["WAITING_FOR_DEVICE", "STARTING", "EXPORTING", "DONE"]
        done = [event.phase_progress.phase for event in events if event.HasField("phase_progress")]
        assert done == PHASES
        found = await talk.job(job.name)
        assert found.progress.fraction == 1.0
        assert (found.export.weights.artifact, found.export.format) == (
            artifact,
            artifact_pb2.EXPORT_FORMAT_TRANSFORMERS,
        )
        assert (found.export.base.path, found.base.hub_id) == ("tiny", "acme/tiny")
        assert (found.export.max_prompts, found.export.max_new_tokens) == (8, 32)
        (made,) = (await talk.stub.ListArtifacts(artifact_pb2.ListArtifactsRequest(parent=trained.name))).artifacts
        assert found.export.weights.sha256 == made.sha256
        task = worker_pb2.Task.FromString(next((tmp_path / "data").rglob("task.binpb")).read_bytes())
        assert task.base.model_dir == str(tmp_path / "models" / "tiny")
        assert Path(task.weights[0].folder).name == "adapter"
        # Without prompts of the request, rows of the job that trained are asked.
        assert task.dataset_file
        assert [job.name for job in (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest(tasks=[3]))).jobs] == [
            job.name
        ]


async def test_what_cannot_be_exported_is_refused_and_nothing_is_created(tmp_path):
    async with trainer(tmp_path) as talk:
        plain = put_weights(tmp_path, "plain", lora())
        prefix = put_weights(tmp_path, "prefix", lora(peft_type="PREFIX_TUNING"))
        bottleneck = put_weights(
            tmp_path,
            "bottleneck",
            {"format": "finetree-bottleneck-1", "base": {"hub_id": "acme/tiny"}},
            "adapter.safetensors",
        )
        dora = put_weights(tmp_path, "dora", lora(use_dora=True))
        unnamed = put_weights(tmp_path, "unnamed", lora(base_model_name_or_path="/home/somebody/model"))
        tiny, packed = tmp_path / "models" / "tiny", tmp_path / "models" / "packed"
        packed.mkdir()
        config = json.loads((tiny / "config.json").read_text()) | {"quantization_config": {"load_in_4bit": True}}
        (packed / "config.json").write_text(json.dumps(config))
        onto, onto_packed = {"base": {"path": "tiny"}}, {"base": {"path": "packed"}}
        gone = "projects/default/jobs/01890000-0000-7000-8000-000000000000/artifacts/a"
        for fields, wanted in (
            (prefix | onto, ("INVALID_ARGUMENT", "NOT_MERGEABLE")),
            (bottleneck | onto | {"format": GGUF}, ("INVALID_ARGUMENT", "NOT_MERGEABLE")),
            (prefix | onto | {"format": GGUF_LORA}, ("INVALID_ARGUMENT", "EXPORT_FORMAT_UNSUPPORTED")),
            (dora | onto | {"format": GGUF_LORA}, ("INVALID_ARGUMENT", "EXPORT_FORMAT_UNSUPPORTED")),
            (plain | onto | {"weight_type": Q8_0}, ("INVALID_ARGUMENT", "EXPORT_FORMAT_UNSUPPORTED")),
            (plain | onto_packed, ("INVALID_ARGUMENT", "MERGE_INTO_QUANTIZED")),
            # The harness's model states no type, which no GGUF file could hold.
            (plain | onto | {"format": GGUF}, ("INVALID_ARGUMENT", "EXPORT_ARCHITECTURE_UNSUPPORTED")),
            (plain, ("FAILED_PRECONDITION", "MODEL_NOT_PREPARED")),
            (unnamed, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
            ({"artifact": gone}, ("NOT_FOUND", "JOB_NOT_FOUND")),
            ({"artifact": gone} | plain, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
            ({}, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
            (plain | onto | {"max_prompts": 0}, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        ):
            assert await refused(talk.stub.CreateJob(request_of(**fields))) == wanted, fields
        with pytest.raises(
            grpc.aio.AioRpcError, match="only a LoRA adapter can be a GGUF adapter file, and bottleneck"
        ):
            await talk.stub.CreateJob(request_of(**bottleneck, **onto, format=GGUF_LORA))
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs


async def test_an_export_that_does_not_fit_on_the_disk_is_priced_and_refused(tmp_path):
    async with trainer(tmp_path, disk_reserve_bytes=1 << 60) as talk:
        fields = put_weights(tmp_path, "plain", lora()) | {"base": {"path": "tiny"}}
        assert await refused(talk.stub.CreateJob(request_of(**fields))) == ("RESOURCE_EXHAUSTED", "EXPORT_TOO_LARGE")


async def test_validating_tells_the_size(tmp_path):
    async with trainer(tmp_path) as talk:
        fields = put_weights(tmp_path, "plain", lora()) | {"base": {"path": "tiny"}}
        request = trainer_pb2.ValidateJobRequest(job=request_of(**fields).job)
        found = await talk.stub.ValidateJob(request)
        assert found.export.format == artifact_pb2.EXPORT_FORMAT_TRANSFORMERS
        assert [remark.code for remark in found.remarks] == ["EXPORT_SIZE"]
        assert "bytes of memory" in found.remarks[0].message


def test_the_report_is_a_kind_of_event():
    assert event_pb2.EventKind.Value("EVENT_KIND_EXPORT_REPORT") == 19
