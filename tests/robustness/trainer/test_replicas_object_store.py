# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - what is waited for is other processes
"""Replicas with an object store: the leader is killed while it uploads, and the store has everything once."""

import asyncio
import shutil

import pytest
from faulty_proxy import faulty_proxy
from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2, dataset_pb2
from finetree_data.objects import units
from finetree_data.objects.bucket import Bucket
from replica_group import PATIENCE, follow, until_step
from trainer_harness import ROWS, assert_whole, jsonl, states, steps, workers_gone

SCRIPT = {"steps": 300, "delay": 0.02, "checkpoints": [5, 150, 300], "artifact": True}

pytestmark = [pytest.mark.slow(40), pytest.mark.timeout(400)]


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.2)


async def download(talk, name: str, path: str) -> bytes:
    request = artifact_pb2.DownloadArtifactRequest(name=name, path=path)
    return b"".join([piece.chunk async for piece in talk.stub.DownloadArtifact(request)])


async def test_the_leader_is_killed_in_an_upload_and_the_store_has_everything_once(replicas, object_store, tmp_path):
    bucket = object_store.new_bucket()
    with faulty_proxy(object_store.port) as proxy:
        proxy.fault, proxy.slow_seconds = lambda _: "slow", 0.0
        group = replicas(
            SCRIPT,
            object_store=f"s3://{bucket}/finetree",
            object_store_options_file=object_store.options_file(tmp_path, endpoint=proxy.endpoint),
        )
        await group.start_all()
        first = await group.leader()
        others = [address for address in group.servers if address != first]
        talk = group.talks[others[0]]
        job = await talk.train()
        watching = [asyncio.create_task(follow(group, address, job.name)) for address in group.servers]
        await until_step(group, others[1], job, 10)
        # Ten seconds on its way, of which two have passed when the leader is killed.
        proxy.slow_seconds, sent = 0.1, proxy.sent
        content = jsonl(ROWS) * (6 * 2**20 // len(jsonl(ROWS)))
        created = await talk.create_dataset(content)
        pieces = [(start, content[start : start + 2**20]) for start in range(0, len(content), 2**20)]
        large = await talk.write(created.name, pieces)
        await until(lambda: proxy.sent > sent + 2**20)
        await group.kill(first)
        assert f"finetree/manifests/datasets/{large.sha256}.jsonl.json" not in object_store.keys(bucket)
        proxy.slow_seconds = 0.0
        await group.leader(other_than=first)
        await group.start(first)
        for events in await asyncio.gather(*watching):
            assert_whole(events)
            assert steps(events) == [(1, step) for step in range(1, 301)]
            assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"]
        uid = job.name.rpartition("/")[2]
        small = await talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=job.train.spec.dataset.name))
        wanted = sorted(
            [
                *(f"datasets/{sha256}.jsonl" for sha256 in (large.sha256, small.dataset.sha256)),
                f"jobs/{uid}/attempts/1/artifacts/adapter",
                *(f"jobs/{uid}/checkpoints/step-{step:08}" for step in (150, 300)),
            ]
        )
        store = Bucket.open(f"s3://{bucket}/finetree", object_store.options() | {"allow_http": True})

        def stored() -> list:
            return sorted(units.find_below(store)[0], key=lambda manifest: manifest.path)

        await until(lambda: [manifest.path for manifest in stored()] == wanted)
        named = {f"finetree/files/{m.path}/{f.sha256}" for m in stored() for f in m.files.values()}
        assert {key for key in object_store.keys(bucket) if "/files/" in key} == named
        await workers_gone(tmp_path)
        # What the disk has lost comes back through each of the replicas, and is the same.
        data = tmp_path / "data"
        contents = [large.sha256, small.dataset.sha256]
        for address, each in group.talks.items():
            shutil.rmtree(data / "jobs" / uid)
            for sha256 in contents:
                (data / "datasets" / f"{sha256}.jsonl").unlink(missing_ok=True)
            listed = await each.stub.ListCheckpoints(checkpoint_pb2.ListCheckpointsRequest(parent=job.name))
            assert [(found.step, found.available) for found in listed.checkpoints] == [(150, True), (300, True)], (
                address
            )
            assert await download(each, f"{job.name}/artifacts/adapter", "weights.bin") == bytes(range(256)) * 4096
            for name in (large.name, small.dataset.name):
                # A job on it, whose leader fetches it.
                made = await each.train(dataset=name, suspended=True)
                await each.cancel(made.name)
            for manifest in stored():
                if manifest.path.startswith("datasets/"):
                    assert units.is_whole(manifest, data / manifest.path, hashed=True)
        await until(lambda: not list((data / "transfers").glob("*/*")))
        assert [manifest.path for manifest in stored()] == wanted
