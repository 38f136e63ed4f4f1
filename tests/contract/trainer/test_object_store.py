# SPDX-License-Identifier: Apache-2.0

"""An object store beside the data folder: what is put there, fetched again, dropped from the disk and deleted.

The store is a folder (file://); tests/robustness/trainer/test_object_store_faults.py has a server, and its faults.
"""

import asyncio
import shutil

import grpc
import pytest
from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2, dataset_pb2, event_pb2, job_pb2, retention_pb2
from finetree_api.types.v1 import run_spec_pb2, weights_pb2
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.objects import copies as copies_module
from trainer_harness import ROWS, jsonl, refusal, states, trainer, workers_gone, write_script

SCRIPT = {"steps": 6, "checkpoints": [2, 4, 6], "artifact": True}
WAITING = "WAITING_FOR_DATA"
STARTED = event_pb2.EVENT_KIND_ATTEMPT_STARTED


def units(tmp_path) -> list[str]:
    root = tmp_path / "store" / "manifests"
    return sorted(file.relative_to(root).as_posix().removesuffix(".json") for file in root.rglob("*.json"))


async def until(condition, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for shows in files alone
            await asyncio.sleep(0.02)


async def trained(talk, tmp_path) -> tuple[dataset_pb2.Dataset, job_pb2.Job, list[str]]:
    """A dataset, a job that has ended, and the units of both once they are in the store; its worker is gone, too."""
    dataset = await talk.upload(jsonl(ROWS))
    job = await talk.train(dataset=dataset.name)
    await talk.events(job.name)
    uid = job.name.rpartition("/")[2]
    wanted = sorted(
        [
            f"datasets/{dataset.sha256}.jsonl",
            f"jobs/{uid}/attempts/1/artifacts/adapter",
            f"jobs/{uid}/checkpoints/step-00000004",
            f"jobs/{uid}/checkpoints/step-00000006",
        ]
    )
    await until(lambda: units(tmp_path) == wanted)
    await workers_gone(tmp_path)
    return dataset, await talk.job(job.name), wanted


async def listed(talk, job) -> list[checkpoint_pb2.Checkpoint]:
    return list((await talk.stub.ListCheckpoints(checkpoint_pb2.ListCheckpointsRequest(parent=job.name))).checkpoints)


async def read(talk, name: str, path: str) -> bytes:
    request = artifact_pb2.DownloadArtifactRequest(name=name, path=path)
    return b"".join([piece.chunk async for piece in talk.stub.DownloadArtifact(request)])


async def refused(call) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)[:2]


async def test_what_the_disk_has_lost_is_listed_downloaded_and_used_again(tmp_path, stored):
    async with trainer(tmp_path, SCRIPT, **stored) as talk:
        dataset, job, _ = await trained(talk, tmp_path)
        data, uid = tmp_path / "data", job.name.rpartition("/")[2]
        before, artifact = await listed(talk, job), f"{job.name}/artifacts/adapter"
        assert [each.step for each in before] == [4, 6]
        content = await read(talk, artifact, "weights.bin")
        shutil.rmtree(data / "jobs" / uid)
        (data / "datasets" / f"{dataset.sha256}.jsonl").unlink()
        after = await listed(talk, job)
        assert [(c.step, c.sha256, c.size_bytes, c.available) for c in after] == [
            (c.step, c.sha256, c.size_bytes, c.available) for c in before
        ]
        assert await read(talk, artifact, "weights.bin") == content
        # A job on the dataset, from the checkpoint.
        spec = run_spec_pb2.RunSpec(init_from=weights_pb2.TrainedWeights(checkpoint=f"{job.name}/checkpoints/6"))
        second = await talk.train(dataset=dataset.name, task=job_pb2.TrainTask(spec=spec))
        events = await talk.events(second.name)
        assert states(events)[-1] == "SUCCEEDED"
        assert (data / "datasets" / f"{dataset.sha256}.jsonl").read_bytes() == jsonl(ROWS)
        await until(lambda: not list((data / "transfers").glob("*/*")))


async def test_a_damaged_copy_is_named_and_never_used(tmp_path, stored):
    async with trainer(tmp_path, SCRIPT, **stored) as talk:
        dataset, job, _ = await trained(talk, tmp_path)
        uid = job.name.rpartition("/")[2]
        files = tmp_path / "store" / "files"
        for unit in (f"jobs/{uid}/attempts/1/artifacts/adapter", f"datasets/{dataset.sha256}.jsonl"):
            file = next((files / unit).iterdir())
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
        shutil.rmtree(tmp_path / "data" / "jobs" / uid / "attempts")
        (tmp_path / "data" / "datasets" / f"{dataset.sha256}.jsonl").unlink()
        download = talk.stub.DownloadArtifact(
            artifact_pb2.DownloadArtifactRequest(name=f"{job.name}/artifacts/adapter", path="weights.bin")
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in download:
                pass
        code, reason, info, _ = refusal(error.value)
        assert (code, reason) == ("FAILED_PRECONDITION", "OBJECT_DAMAGED")
        assert dict(info.metadata) == {"path": f"jobs/{uid}/attempts/1/artifacts/adapter", "file": "weights.bin"}
        assert str(tmp_path) not in error.value.details()
        assert await refused(talk.train(dataset=dataset.name)) == ("FAILED_PRECONDITION", "OBJECT_DAMAGED")
        await until(lambda: not list((tmp_path / "data" / "transfers").glob("*/*")))


async def test_what_is_deleted_is_deleted_in_the_store_too(tmp_path, stored):
    async with trainer(tmp_path, SCRIPT, **stored) as talk:
        dataset, job, wanted = await trained(talk, tmp_path)
        uid = job.name.rpartition("/")[2]
        # One that is only in the store, and one that is in both places.
        shutil.rmtree(tmp_path / "data" / "jobs" / uid / "checkpoints" / "step-00000004")
        for step in (4, 6):
            await talk.stub.DeleteCheckpoint(
                checkpoint_pb2.DeleteCheckpointRequest(name=f"{job.name}/checkpoints/{step}")
            )
        assert await listed(talk, job) == []
        assert units(tmp_path) == wanted[:2]
        await talk.stub.DeleteJob(retention_pb2.DeleteJobRequest(name=job.name))
        assert units(tmp_path) == wanted[:1]
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=dataset.name))
        kept = [file for file in (tmp_path / "store").rglob("*") if file.is_file()]
        assert [file.name for file in kept] == ["owner"]


async def test_the_disk_keeps_what_was_used_last_and_what_jobs_need(tmp_path, stored):
    async with trainer(tmp_path, SCRIPT, **stored) as talk:
        dataset, job, _ = await trained(talk, tmp_path)
        data, uid = tmp_path / "data", job.name.rpartition("/")[2]
        adapter = data / "jobs" / uid / "attempts" / "1" / "artifacts" / "adapter"
        # A job that waits needs the dataset, whatever its age.
        waiting = await talk.train(dataset=dataset.name, suspended=True)
        await read(talk, f"{job.name}/artifacts/adapter", "weights.bin")
        cache = talk.application._objects.cache
        cache._recent, cache._limit = 0.0, sum(file.stat().st_size for file in adapter.iterdir()) + 3000
        await cache.trim()
        assert adapter.is_dir()
        assert (data / "datasets" / f"{dataset.sha256}.jsonl").is_file()
        assert list((data / "jobs" / uid / "checkpoints").glob("step-*")) == []
        assert [each.step for each in await listed(talk, job)] == [4, 6]
        cache._limit = 1
        await talk.cancel(waiting.name)
        await cache.trim()
        assert not adapter.exists()
        assert not (data / "datasets" / f"{dataset.sha256}.jsonl").exists()
        # Not what was used a moment ago, nor what the store does not have.
        cache._recent = 600.0
        assert len(await read(talk, f"{job.name}/artifacts/adapter", "weights.bin")) == 256 * 4096
        shutil.rmtree(tmp_path / "store" / "manifests" / "jobs")
        cache._recent = 0.0
        await cache.trim()
        assert adapter.is_dir()


async def test_an_attempt_goes_on_from_the_stores_newest_checkpoint(tmp_path, stored):
    script = {"steps": 6, "checkpoints": [2, 4, 6], "kill_at": {"1": 5}, "delay": 0.05}
    async with trainer(tmp_path, script, **stored) as talk:
        dataset = await talk.upload(jsonl(ROWS))
        job = await talk.train(dataset=dataset.name)
        uid = job.name.rpartition("/")[2]
        folder = tmp_path / "data" / "jobs" / uid / "checkpoints"
        gate, fetch = asyncio.Event(), copies_module.Copies.refresh

        async def held(self, place):  # noqa: ANN202 - as the method
            await gate.wait()
            await fetch(self, place)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copies_module.Copies, "refresh", held)
            await talk.until(job.name, lambda event: event.attempt == 1 and event.queue_changed.code == WAITING, 60)
            await until(lambda: f"jobs/{uid}/checkpoints/step-00000004" in units(tmp_path))
            shutil.rmtree(folder)
            write_script(tmp_path, {"steps": 6})
            gate.set()
            events = await talk.events(job.name, 60)
        assert states(events)[-1] == "SUCCEEDED"
        assert sum(event.kind == STARTED for event in events) == 2
        assert (folder / "step-00000004" / "manifest.json").is_file()


async def test_a_store_is_one_trainers_and_a_restart_finds_what_it_has(tmp_path, stored):
    async with trainer(tmp_path, SCRIPT, **stored) as talk:
        _, job, wanted = await trained(talk, tmp_path)
    async with trainer(tmp_path, SCRIPT, **stored) as talk:
        assert sorted(manifest.path for _, manifest in talk.application._copies) == wanted
        assert [each.step for each in await listed(talk, job)] == [4, 6]
        # The sweep removes what no row knows.
        uid = job.name.rpartition("/")[2]
        stray = tmp_path / "store" / "manifests" / "jobs" / "stray" / "checkpoints" / "step-00000001.json"
        stray.parent.mkdir(parents=True)
        known = (tmp_path / "store" / "manifests" / "jobs" / uid / "checkpoints" / "step-00000004.json").read_text()
        stray.write_text(known.replace(uid, "stray").replace("step-00000004", "step-00000001"))
        await talk.application._copies.load()
        await talk.application._retention.sweep()
        assert units(tmp_path) == wanted
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SettingsError) as error:
        async with trainer(other, {}, **stored):
            pass
    assert error.value.reason == "OBJECT_STORE_OF_OTHER_TRAINER"
