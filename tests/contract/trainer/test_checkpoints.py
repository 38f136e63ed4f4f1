# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as resources: pinned, given a time, downloaded, deleted; never what a job needs."""

import asyncio
import hashlib
import json

import finetree
import grpc
import pytest
from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2, job_pb2, retention_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, weights_pb2
from finetree_cli import __main__ as command
from google.protobuf import duration_pb2
from trainer_harness import ROWS, jsonl, refusal, trainer

SCRIPT = {"steps": 6, "checkpoints": [2, 4, 6], "adapter": True}
Update, Delete = checkpoint_pb2.UpdateCheckpointRequest, checkpoint_pb2.DeleteCheckpointRequest


async def refused(call) -> tuple:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


async def ended(talk, **fields) -> job_pb2.Job:  # noqa: ANN003 - fields of the template
    job = await talk.train(**fields)
    await talk.events(job.name)
    return await talk.job(job.name)


async def listed(talk, job) -> list[checkpoint_pb2.Checkpoint]:
    request = checkpoint_pb2.ListCheckpointsRequest(parent=job.name)
    return list((await talk.stub.ListCheckpoints(request)).checkpoints)


async def read(talk, name, path, **part) -> tuple[artifact_pb2.ArtifactFile, bytes]:  # noqa: ANN003 - offset, limit
    request = artifact_pb2.DownloadArtifactRequest(name=name, path=path, **part)
    pieces = [piece async for piece in talk.stub.DownloadArtifact(request)]
    return pieces[0].file, b"".join(piece.chunk for piece in pieces)


async def test_a_checkpoint_is_pinned_once_for_each_request_and_deleted_when_it_is_not(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        job = await ended(talk)
        name = f"{job.name}/checkpoints/4"
        request = Update(name=name, pinned=True, time_to_live=duration_pb2.Duration(seconds=3600), request_id="pin")
        found = (await talk.stub.UpdateCheckpoint(request)).checkpoint
        assert (found.pinned, found.HasField("expire_time")) == (True, True)
        assert (await listed(talk, job))[0] == found
        # A part of it changes, and a repeated request changes nothing.
        await talk.stub.UpdateCheckpoint(Update(name=name, time_to_live=duration_pb2.Duration()))
        again = (await talk.stub.UpdateCheckpoint(request)).checkpoint
        assert (again.pinned, again.HasField("expire_time")) == (True, False)
        reused = await refused(talk.stub.UpdateCheckpoint(Update(name=name, pinned=False, request_id="pin")))
        assert reused[:2] == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        for call in (
            talk.stub.DeleteCheckpoint(Delete(name=name)),
            talk.stub.DeleteJob(retention_pb2.DeleteJobRequest(name=job.name)),
        ):
            assert (await refused(call))[:2] == ("FAILED_PRECONDITION", "CHECKPOINT_PINNED")
        await talk.stub.UpdateCheckpoint(Update(name=name, pinned=False))
        first = await talk.stub.DeleteCheckpoint(Delete(name=name, request_id="gone"))
        assert first.freed_bytes >= found.size_bytes
        assert await talk.stub.DeleteCheckpoint(Delete(name=name, request_id="gone")) == first
        assert [each.step for each in await listed(talk, job)] == [6]
        for call in (
            talk.stub.DeleteCheckpoint(Delete(name=name)),
            talk.stub.UpdateCheckpoint(Update(name=name, pinned=True)),
            talk.stub.GetCheckpoint(checkpoint_pb2.GetCheckpointRequest(name=name)),
        ):
            code, reason, info, _ = await refused(call)
            assert (code, reason, info.metadata["steps"]) == ("NOT_FOUND", "CHECKPOINT_NOT_FOUND", "6")
        wrong = await refused(talk.stub.DeleteCheckpoint(Delete(name=f"{job.name}/checkpoints/last")))
        assert wrong[:2] == ("INVALID_ARGUMENT", "INVALID_NAME")


async def test_a_pinned_checkpoint_goes_with_its_job_by_force_alone(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        job = await ended(talk)
        await talk.stub.UpdateCheckpoint(Update(name=f"{job.name}/checkpoints/4", pinned=True))
        await talk.stub.DeleteJob(retention_pb2.DeleteJobRequest(name=job.name, force=True))
        assert not (tmp_path / "data/jobs" / job.uid).exists()


async def test_what_a_job_needs_is_not_deleted(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        parent = await ended(talk, dataset=dataset)
        name = f"{parent.name}/checkpoints/4"
        source = weights_pb2.TrainedWeights(checkpoint=name)
        task = job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(lora=method_pb2.Lora(), init_from=source))
        child = await talk.train(dataset=dataset, task=task, suspended=True)
        code, reason, info, _ = await refused(talk.stub.DeleteCheckpoint(Delete(name=name)))
        assert (code, reason, info.metadata["users"]) == ("FAILED_PRECONDITION", "JOB_IN_USE", child.name)
        await talk.cancel(child.name)
        await talk.stub.DeleteCheckpoint(Delete(name=name))
        script = {"steps": 500, "delay": 0.02, "checkpoints": [1, 2]}
        (tmp_path / "script.json").write_text(json.dumps(script))
        live = await talk.train(dataset=dataset)
        two = 2
        await talk.until(live.name, lambda event: event.checkpoint_saved.step == two)
        newest = await refused(talk.stub.DeleteCheckpoint(Delete(name=f"{live.name}/checkpoints/2")))
        assert newest[:2] == ("FAILED_PRECONDITION", "JOB_NOT_ENDED")


async def test_a_checkpoint_is_downloaded_in_parts_with_hashes_and_its_state_when_asked(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        job = await ended(talk)
        name = f"{job.name}/checkpoints/6"
        found = (await talk.stub.GetCheckpoint(checkpoint_pb2.GetCheckpointRequest(name=name))).checkpoint
        assert [file.path for file in found.files] == ["adapter_config.json", "adapter_model.safetensors"]
        with_state = checkpoint_pb2.GetCheckpointRequest(name=name, include_state=True)
        state = (await talk.stub.GetCheckpoint(with_state)).checkpoint
        assert [file.path for file in state.files][2:] == ["optimizer.safetensors", "state.json"]
        for file in state.files:
            described, content = await read(talk, name, file.path)
            assert (described, hashlib.sha256(content).hexdigest()) == (file, file.sha256)
            tail = await read(talk, name, file.path, offset=file.size_bytes - 1, limit=9)
            assert tail == (file, content[-1:])
        size = state.files[0].size_bytes
        code, reason, info, _ = await refused(read(talk, name, "adapter_config.json", offset=size + 1))
        assert (code, reason, info.metadata["size_bytes"]) == ("OUT_OF_RANGE", "OFFSET_BEYOND_END", str(size))
        assert (await refused(read(talk, name, "manifest.json")))[:2] == ("NOT_FOUND", "FILE_NOT_FOUND")
        folder = tmp_path / "data/jobs" / job.uid / "checkpoints/step-00000006"
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["files"]["portable.json"]  # as a release that knew nothing of it has left one
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "portable.json").unlink()
        code, reason, *_ = await refused(talk.stub.GetCheckpoint(checkpoint_pb2.GetCheckpointRequest(name=name)))
        assert (code, reason) == ("FAILED_PRECONDITION", "CHECKPOINT_NOT_PORTABLE")


async def test_the_sdk_and_the_command_keep_fetch_and_delete_checkpoints(tmp_path, monkeypatch, capsys):
    async with trainer(tmp_path, SCRIPT) as talk:
        monkeypatch.setenv("FINETREE_TRAINER_ADDRESS", talk.address)
        job = await ended(talk)
        async with finetree.AsyncClient(trainer_address=talk.address) as client:
            handle = client.job(job.name)
            folder = await handle.download_checkpoint(6, tmp_path / "fetched", include_state=True)
            names = ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors", "state.json"]
            assert sorted(file.name for file in folder.iterdir()) == names
            found = await handle.update_checkpoint(4, time_to_live=60)
            assert found.expire_time.ToMicroseconds() > found.create_time.ToMicroseconds()

        async def run(*words: str) -> str:
            code = await asyncio.to_thread(command.run, ["jobs", "checkpoints", job.uid, *words])
            out, err = capsys.readouterr()
            assert code == 0, err
            return out

        assert "pinned" in await run("--pin", "4", "--expire", "4", "1h")
        assert "pinned" not in await run("--unpin", "4")
        out = await run("--download", "4", str(tmp_path / "at-4"))
        assert out.strip() == str(tmp_path / "at-4")
        assert (tmp_path / "at-4/adapter_model.safetensors").is_file()
        told = json.loads(await run("--delete", "4", "--json"))
        assert (told["freed_bytes"] > 0, [each["step"] for each in told["checkpoints"]]) == (True, [6])
