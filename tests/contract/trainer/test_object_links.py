# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - what is waited for is another process
"""Links to files of artifacts: a real S3 server, plain HTTP, and every refusal."""

import asyncio
import json
import time
import urllib.error
import urllib.request

import finetree
import grpc
import obstore
import pytest
from finetree_api.trainer.v1 import artifact_pb2
from finetree_cli import __main__ as command
from finetree_cli.backends.audit.records import lines
from finetree_data.objects.bucket import Bucket
from finetree_runtime.config.settings import SettingsError
from google.protobuf.duration_pb2 import Duration
from trainer_harness import refusal, states, trainer

SCRIPT = {"steps": 2, "artifact": True}
FILE = "weights.bin"


def settings(server, tmp_path, bucket: str, **changes) -> dict:  # noqa: ANN003 - settings of any type
    file = server.options_file(tmp_path)
    return {"object_store": f"s3://{bucket}/finetree", "object_store_options_file": file, **changes}


async def until(condition, seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def uploaded(talk) -> str:
    """The name of an artifact that the store has."""
    job = await talk.train()
    assert states(await talk.events(job.name))[-1] == "SUCCEEDED"
    await until(lambda: any(place.name == "adapter" for place, _ in talk.application._copies))
    return f"{job.name}/artifacts/adapter"


async def link(talk, name: str, path: str = FILE, seconds: int = 0) -> artifact_pb2.GetArtifactLinkResponse:
    request = artifact_pb2.GetArtifactLinkRequest(name=name, path=path)
    if seconds:
        request.time_to_live.CopyFrom(Duration(seconds=seconds))
    return await talk.stub.GetArtifactLink(request)


async def refused(call) -> tuple[str, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    code, reason, info, _ = refusal(error.value)
    assert "Signature" not in str(error.value)
    return code, reason, dict(info.metadata)


async def read(talk, name: str) -> bytes:
    request = artifact_pb2.DownloadArtifactRequest(name=name, path=FILE)
    return b"".join([piece.chunk async for piece in talk.stub.DownloadArtifact(request)])


def fetched(url: str, **headers: str) -> tuple[int, bytes, str]:
    """Status, body and the name to save it under, of a GET without credentials."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read(), answer.headers["Content-Disposition"]
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, b"", ""


@pytest.mark.timeout(300)
async def test_a_link_gives_the_file_by_plain_http_until_it_expires_and_stands_in_no_record(
    object_store, tmp_path, capfd
):
    given = settings(object_store, tmp_path, object_store.new_bucket(), log_level="debug", audit_dir=tmp_path / "audit")
    async with trainer(tmp_path, SCRIPT, **given) as talk:
        name = await uploaded(talk)
        before = int(time.time())
        found = await link(talk, name)
        assert before + 900 <= found.expire_time.seconds <= time.time() + 900
        content = await read(talk, name)
        assert fetched(found.url) == (200, content, f'attachment; filename="{FILE}"')
        assert found.file.size_bytes == len(content)
        assert fetched(found.url, Range="bytes=10-19")[:2] == (206, content[10:20])
        # Another object by the same signature.
        assert fetched(found.url.replace(found.file.sha256, "0" * 64))[0] == 403
        short = await link(talk, name, seconds=1)
        assert short.expire_time.seconds <= time.time() + 1
        await until(lambda: fetched(short.url)[0] == 403)
        assert time.time() >= short.expire_time.seconds
        # Not longer than the trainer allows, and what works goes on to.
        week = await link(talk, name, seconds=7 * 86400)
        assert week.expire_time.seconds <= time.time() + 900
        assert fetched(found.url)[:2] == (200, content)
    records = [line.record for line in lines(tmp_path / "audit" / "finetree-trainer")]
    given_links = [each for each in records if each.get("method", "").endswith("/GetArtifactLink")]
    assert [(each["event"], each["code"], each["resources"]) for each in given_links] == [("call", "OK", [name])] * 3
    out, err = capfd.readouterr()
    assert "GetArtifactLink" in out + err
    written = out + err + json.dumps(records)
    assert not [
        secret for secret in ("Signature", "X-Amz", "writer-secret", str(object_store.port)) if secret in written
    ]


@pytest.mark.timeout(300)
async def test_only_what_the_store_has_whole_gets_a_link(object_store, tmp_path):
    bucket = object_store.new_bucket()
    async with trainer(tmp_path, SCRIPT, **settings(object_store, tmp_path, bucket)) as talk:
        job = await talk.train(suspended=True)
        name, copies = f"{job.name}/artifacts/adapter", talk.application._copies
        uid = job.name.rpartition("/")[2]
        # The job's copies are held, as by an upload before it.
        async with copies._owners.held(f"jobs/{uid}"):
            await talk.resume(job.name)
            await talk.events(job.name)
            code, reason, metadata = await refused(link(talk, name))
            assert (code, reason) == ("FAILED_PRECONDITION", "FILE_NOT_IN_OBJECT_STORE")
            assert metadata == {"path": FILE}
        await until(lambda: any(place.name == "adapter" for place, _ in copies))
        found = await link(talk, name)
        assert fetched(found.url)[0] == 200
        for other, path, wanted in (
            (name, "../finetree.json", ("NOT_FOUND", "FILE_NOT_FOUND")),
            (f"{job.name}/artifacts/other", FILE, ("NOT_FOUND", "ARTIFACT_NOT_FOUND")),
            (name.replace("default", "other"), FILE, ("NOT_FOUND", "JOB_NOT_FOUND")),
            (f"{job.name}/checkpoints/2", FILE, ("INVALID_ARGUMENT", "INVALID_NAME")),
        ):
            assert (await refused(link(talk, other, path)))[:2] == wanted
        too_long = link(talk, name, seconds=7 * 86400 + 1)
        assert (await refused(too_long))[:2] == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        store = object_store.store(bucket)
        obstore.delete(store, next(key for key in object_store.keys(bucket) if key.endswith(found.file.sha256)))
        code, reason, metadata = await refused(link(talk, name))
        assert (code, reason) == ("FAILED_PRECONDITION", "OBJECT_DAMAGED")
        assert metadata == {"path": f"jobs/{uid}/attempts/1/artifacts/adapter", "file": FILE}
        try:
            object_store.kill()
            assert (await refused(link(talk, name)))[:2] == ("UNAVAILABLE", "OBJECT_STORE_UNAVAILABLE")
        finally:
            object_store.start()


@pytest.mark.parametrize("kind", ["none", "folder", "off", "credentials"])
async def test_a_trainer_that_cannot_sign_says_so_and_gives_the_bytes(object_store, tmp_path, kind):
    (tmp_path / "store").mkdir()
    given = {
        "none": {},
        "folder": {"object_store": f"file://{tmp_path / 'store'}"},
        "off": settings(object_store, tmp_path, object_store.new_bucket(), object_link_time=0.0),
        "credentials": settings(object_store, tmp_path, object_store.new_bucket()),
    }[kind]
    async with trainer(tmp_path, SCRIPT, **given) as talk:
        job = await talk.train()
        await talk.events(job.name)
        if given:
            await until(lambda: any(place.name == "adapter" for place, _ in talk.application._copies))
        name = f"{job.name}/artifacts/adapter"
        if kind == "credentials":
            # A key of S3 always signs; an Azure client with a shared access signature never does.
            sas = {"account_name": "example", "sas_token": "sv=2024-11-04&sig=secret"}
            talk.application._copies._bucket._signer = Bucket.open("az://files", sas)._signer
        assert (await refused(link(talk, name)))[:2] == ("FAILED_PRECONDITION", "LINKS_UNSUPPORTED")
        async with finetree.AsyncClient(talk.address) as client:
            folders = await client.job(job.name).download(tmp_path / "out", direct=True)
        assert (folders[name] / FILE).read_bytes() == await read(talk, name)


async def test_links_name_the_endpoint_that_clients_reach(object_store, tmp_path):
    endpoint = f"http://localhost:{object_store.port}"
    given = settings(object_store, tmp_path, object_store.new_bucket(), object_link_endpoint=endpoint)
    async with trainer(tmp_path, SCRIPT, **given) as talk:
        name = await uploaded(talk)
        found = await link(talk, name)
        assert found.url.startswith(f"{endpoint}/")
        assert fetched(found.url)[:2] == (200, await read(talk, name))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"object_link_endpoint": "files.example.org"}, "SETTING_INVALID"),
        ({"object_link_endpoint": "https://me:secret@files.example.org"}, "SETTING_INVALID"),
        ({"object_link_endpoint": "https://files.example.org?x=1"}, "SETTING_INVALID"),
        ({"object_link_endpoint": "https://[files"}, "SETTING_INVALID"),
        ({"object_link_endpoint": "https://files.example.org"}, "OBJECT_STORE_OPTIONS_INVALID"),
        ({"object_link_time": 7 * 86400.0 + 1}, "SETTING_INVALID"),
    ],
)
async def test_settings_that_links_cannot_have_prevent_the_start(tmp_path, changes, reason):
    with pytest.raises(SettingsError) as error:
        async with trainer(tmp_path, {}, object_store=f"file://{tmp_path}", **changes):
            pass
    assert error.value.reason == reason
    assert "secret" not in str(error.value)


@pytest.mark.timeout(300)
async def test_both_clients_and_the_command_fetch_by_links_and_from_the_trainer_what_they_cannot(
    object_store, tmp_path, capsys
):
    given = settings(object_store, tmp_path, object_store.new_bucket(), audit_dir=tmp_path / "audit", audit="all")
    async with trainer(tmp_path, SCRIPT, **given) as talk:
        name = await uploaded(talk)
        job = name.partition("/artifacts/")[0]

        def sync() -> dict:
            with finetree.Client(talk.address) as client:
                found = client.job(job).artifact_link(name, FILE, time_to_live=30)
                assert found.url not in repr(found)
                return client.job(job).download(tmp_path / "sync", direct=True)

        def run(*words: object) -> tuple[int, str, str]:
            code = command.run(["--address", talk.address, "jobs", "download", job, *map(str, words)])
            shown = capsys.readouterr()
            return code, shown.out, shown.err

        async with finetree.AsyncClient(talk.address) as client:
            made = await client.job(job).download(tmp_path / "async", direct=True)
            found = await client.job(job).artifact_link(name, FILE)
            assert fetched(found.url)[0] == 200
        places = [made[name], (await asyncio.to_thread(sync))[name], tmp_path / "cli" / "adapter"]
        code, _, err = await asyncio.to_thread(run, "--direct", "--output", tmp_path / "cli")
        assert code == 0, err
        code, out, err = await asyncio.to_thread(run, "--links")
        assert code == 0, err
        code, document, err = await asyncio.to_thread(run, "--links", "--json")
        assert code == 0, err
        assert (await asyncio.to_thread(run, "--links", "--direct"))[0] == 2
        # So far no byte came from the trainer.
        calls = [line.record.get("method", "") for line in lines(tmp_path / "audit" / "finetree-trainer")]
        assert [each for each in calls if each.endswith("/DownloadArtifact")] == []
        content = await read(talk, name)
        assert [(place / FILE).read_bytes() for place in places] == [content] * 3
        shown = {each["path"]: each for each in json.loads(document)["links"]}
        assert len(out.splitlines()) == len(shown)
        assert content in [fetched(url)[1] for url in out.splitlines()]
        assert fetched(shown[FILE]["url"])[:2] == (200, content)
        assert shown[FILE]["size_bytes"] == len(content)
        assert shown[FILE]["expire_time"].endswith("Z")
        try:
            object_store.kill()
            async with finetree.AsyncClient(talk.address) as client:
                made = await client.job(job).download(tmp_path / "away", direct=True)
            assert (made[name] / FILE).read_bytes() == content
        finally:
            object_store.start()
