# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - what is waited for is another process; files of the tests' own
"""An object store that is refused, dies, answers 500, cuts and is slow: a real server, and a proxy before it."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import grpc
import pytest
from faulty_proxy import faulty_proxy
from finetree_api.trainer.v1 import artifact_pb2, dataset_pb2
from finetree_data.objects import units
from finetree_data.objects.bucket import PART_BYTES, Bucket
from finetree_data.objects.errors import ObjectStoreUnavailableError
from finetree_runtime.config.settings import SettingsError
from finetree_trainer import outages
from held_port import held_port
from trainer_harness import ROWS, assert_whole, jsonl, refusal, server, states, trainer, workers_gone

SCRIPT = {"steps": 6, "checkpoints": [2, 4, 6], "artifact": True}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Pauses as short as a test's."""
    monkeypatch.setattr(outages, "FIRST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(outages, "LONGEST_RETRY_SECONDS", 0.2)


def settings(store, tmp_path, bucket: str, **options: str) -> dict:
    return {
        "object_store": f"s3://{bucket}/finetree",
        "object_store_options_file": store.options_file(tmp_path, **options),
    }


async def until(condition, seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bucket": "nobody-made-it"}, "OBJECT_STORE_MISSING"),
        ({"secret": "another-secret"}, "OBJECT_STORE_CREDENTIALS"),
        ({"key": "reader"}, "OBJECT_STORE_READ_ONLY"),
        ({"endpoint": "closed"}, "OBJECT_STORE_UNREACHABLE"),
        ({"url": "s3://me:another-secret@bucket/x"}, "OBJECT_STORE_URL_INVALID"),
        ({"url": "ftp://bucket/x"}, "OBJECT_STORE_URL_INVALID"),
        ({"url": "s3:///x"}, "OBJECT_STORE_URL_INVALID"),
        ({"url": "file:///nowhere/at/all"}, "OBJECT_STORE_MISSING"),
        ({"line": 'secret_acces_key = "another-secret"'}, "OBJECT_STORE_OPTIONS_INVALID"),
        ({"line": "secret_access_key = another-secret"}, "OBJECT_STORE_OPTIONS_INVALID"),
        ({"line": "region = [1]"}, "OBJECT_STORE_OPTIONS_INVALID"),
    ],
)
async def test_what_cannot_be_used_is_refused_at_the_start(object_store, tmp_path, change, reason, capfd):
    change = dict(change)
    bucket, url, line = (
        change.pop("bucket", "") or object_store.new_bucket(),
        change.pop("url", ""),
        change.pop("line", ""),
    )
    if "endpoint" in change:
        change["endpoint"] = f"http://127.0.0.1:{held_port()}"
    given = settings(object_store, tmp_path, bucket, **change)
    if url:
        given["object_store"] = url
    if line:
        given["object_store_options_file"].write_text(line)
    with pytest.raises(SettingsError) as error:
        async with trainer(tmp_path, {}, **given):
            pass
    assert error.value.reason == reason
    out, err = capfd.readouterr()
    assert "secret" not in f"{error.value}{out}{err}".replace("secret_access_key of S3", "")
    if not url and bucket.startswith("bucket") and "key" not in change:
        assert object_store.keys(bucket) == []


@pytest.mark.slow(30)
@pytest.mark.timeout(300)
async def test_training_goes_on_while_the_store_is_away_and_what_waits_is_uploaded_after(object_store, tmp_path):
    bucket = object_store.new_bucket()
    async with trainer(tmp_path, SCRIPT, **settings(object_store, tmp_path, bucket)) as talk:
        application = talk.application
        first = await talk.upload(jsonl(ROWS))
        second = await talk.upload(jsonl(ROWS[:10]))
        suspended = await talk.train(dataset=second.name, suspended=True)
        await until(lambda: len(list(application._copies)) == 2)
        try:
            object_store.kill()
            (tmp_path / "data" / "datasets" / f"{second.sha256}.jsonl").unlink()
            # All of this one is on the disk.
            job = await talk.train(dataset=first.name)
            assert states(await talk.events(job.name, 60))[-1] == "SUCCEEDED"
            await until(lambda: not application._copies.traffic.answers and application._objects.uploads.waiting == 3)
            # What is only in the store is waited for, or refused at once.
            await talk.resume(suspended.name)
            await talk.until(
                suspended.name, lambda event: event.queue_changed.code == "OBJECT_STORE_UNAVAILABLE", seconds=120
            )
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await talk.train(dataset=second.name)
            code, reason, _, _ = refusal(error.value)
            assert (code, reason) == ("UNAVAILABLE", "OBJECT_STORE_UNAVAILABLE")
            assert str(object_store.port) not in error.value.details()
        finally:
            object_store.start()
        events = await talk.events(suspended.name, 120)
        assert states(events)[-1] == "SUCCEEDED"
        assert_whole(events)
        # Two datasets, and of each job two checkpoints and an artifact.
        await until(lambda: len(list(application._copies)) == 8 and not application._objects.uploads.waiting)
        assert len([key for key in object_store.keys(bucket) if "/manifests/" in key]) == 8


@pytest.mark.timeout(300)
async def test_a_kill_of_the_service_in_the_middle_of_a_save_loses_nothing(object_store, tmp_path):
    bucket = object_store.new_bucket()
    store = _direct(object_store, bucket, "finetree")
    with faulty_proxy(object_store.port) as proxy:
        given = settings(object_store, tmp_path, bucket, endpoint=proxy.endpoint)
        async with server(tmp_path, SCRIPT, **given) as (running, talk):
            # Two requests are answered with 500, two are cut, the rest is slow.
            faults = iter(("500", "cut") * 2)
            proxy.fault = lambda _number: next(faults, "slow")
            proxy.drop()
            job = await talk.train()
            await until(lambda: proxy.faults > 4)
            await running.kill()
            again = await running.start()
            await again.events(job.name)
            dataset = await again.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=job.train.spec.dataset.name))
            of_job = f"jobs/{job.uid}"
            wanted = {
                f"datasets/{dataset.dataset.sha256}.jsonl",
                f"{of_job}/attempts/1/artifacts/adapter",
                *(f"{of_job}/checkpoints/step-{step:08}" for step in SCRIPT["checkpoints"][-2:]),
            }
            # There may be as many before: an older checkpoint, which is removed once the newer ones are there.
            await until(lambda: {manifest.path for manifest in units.find_below(store)[0]} == wanted)
    found, damaged = units.find_below(store)
    assert not damaged
    for manifest in found:
        assert units.is_whole(manifest, tmp_path / "data" / manifest.path, hashed=True)
        shutil.rmtree(tmp_path / "draft", ignore_errors=True)
        units.fetch(store, manifest, tmp_path / "draft" / "unit")
        assert units.is_whole(manifest, tmp_path / "draft" / "unit", hashed=True)


@pytest.mark.timeout(300)
async def test_a_service_that_is_killed_while_it_sends_parts_of_a_file_sends_it_again_whole(object_store, tmp_path):
    bucket = object_store.new_bucket()
    row = {"prompt": "Why?", "completion": "because " * 1000}
    content = jsonl([row] * (PART_BYTES // 8000 + 100))
    assert len(content) > PART_BYTES
    with faulty_proxy(object_store.port) as proxy:
        given = settings(object_store, tmp_path, bucket, endpoint=proxy.endpoint)
        async with server(tmp_path, {}, **given) as (running, talk):
            proxy.slow_seconds, proxy.fault = 0.5, lambda _number: "slow"
            proxy.drop()
            dataset = await talk.create_dataset(content)
            pieces = [(start, content[start : start + 2**20]) for start in range(0, len(content), 2**20)]
            before = proxy.sent
            await talk.write(dataset.name, pieces)
            await until(lambda: proxy.sent > before + 500_000)
            await running.kill()
            path = f"datasets/{dataset.sha256}.jsonl"
            assert units.find(_direct(object_store, bucket, "finetree"), path) is None
            proxy.slow_seconds = 0.0
            await running.start()
            await until(lambda: units.find(_direct(object_store, bucket, "finetree"), path) is not None)
    store = _direct(object_store, bucket, "finetree")
    found = units.find(store, path)
    assert found is not None
    assert found.files == {"": units.StoredFile(dataset.sha256, len(content))}
    units.fetch(store, found, tmp_path / "draft")
    assert (tmp_path / "draft").read_bytes() == content


@pytest.mark.timeout(300)
async def test_no_secret_is_logged_answered_kept_or_given_to_a_worker_while_requests_fail(
    object_store, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "writer")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "writer-secret")
    options, seen = tmp_path / "object-store.toml", []
    with faulty_proxy(object_store.port) as proxy:
        options.write_text(f'allow_http = true\nregion = "us-east-1"\nendpoint = "{proxy.endpoint}"\n')
        given = {"object_store": f"s3://{object_store.new_bucket()}/x", "object_store_options_file": options}
        async with trainer(tmp_path, SCRIPT | {"delay": 0.2}, log_level="debug", **given) as talk:
            proxy.fault, proxy.cut_bytes = lambda number: ("500", "cut")[number % 2], 500
            proxy.drop()
            job = await talk.train()
            await talk.until(job.name, lambda event: event.step_metrics.step == 1)
            notes = [json.loads(note.read_text()) for note in (tmp_path / "data" / "workers").glob("*/process.json")]
            environments = [environment_of(note["pid"]) for note in notes]
            assert len(environments) == 1
            seen += [str(await talk.events(job.name))]
            await until(lambda: talk.application._copies.traffic.failures > 2)
            proxy.fault = lambda _number: ""
            await until(lambda: len(list(talk.application._copies)) == 4)
            await workers_gone(tmp_path)
            shutil.rmtree(tmp_path / "data" / "jobs" / job.name.rpartition("/")[2] / "attempts")
            proxy.fault = lambda _number: "500"
            proxy.drop()
            request = artifact_pb2.DownloadArtifactRequest(name=f"{job.name}/artifacts/adapter", path="weights.bin")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await talk.stub.DownloadArtifact(request).read()
            assert refusal(error.value)[:2] == ("UNAVAILABLE", "OBJECT_STORE_UNAVAILABLE")
            seen += [f"{error.value.details()}{error.value.trailing_metadata()}"]
    seen += capfd.readouterr()
    assert "OBJECT_STORE_UNAVAILABLE" in "".join(seen[2:])
    kept = [file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()]
    texts = [*kept, *environments, *(text.encode() for text in seen)]
    for secret in (b"writer-secret", b"Signature=", b"AWS4-HMAC"):
        assert not any(secret in text for text in texts)


def test_an_upload_through_500s_and_cuts_is_whole_in_the_end(object_store, tmp_path):
    place = tmp_path / "unit"
    place.mkdir()
    for name in "abcdef":
        (place / name).write_bytes(os.urandom(400_000))
    manifest = units.describe("jobs/j1/checkpoints/step-00000001", place, {})
    with faulty_proxy(object_store.port) as proxy:
        proxy.cut_bytes = 900_000
        proxy.fault = lambda number: ("500", "cut")[number % 2]
        name = object_store.new_bucket()
        bucket = Bucket.open(f"s3://{name}", object_store.options(endpoint=proxy.endpoint) | {"allow_http": True})
        tries, sent = 0, None
        while sent is None and tries < 100:
            tries += 1
            try:
                sent = units.upload(bucket, manifest, place)
            except ObjectStoreUnavailableError:
                assert units.find(_direct(object_store, name), manifest.path) is None
        assert sent is not None
        assert proxy.faults > 2
    units.fetch(_direct(object_store, name), manifest, tmp_path / "draft")
    assert units.is_whole(manifest, tmp_path / "draft", hashed=True)


def _direct(store, name: str, prefix: str = "") -> Bucket:
    return Bucket.open(f"s3://{name}/{prefix}".rstrip("/"), store.options() | {"allow_http": True})
