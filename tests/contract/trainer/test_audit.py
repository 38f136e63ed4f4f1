# SPDX-License-Identifier: Apache-2.0
"""The audit log of a trainer: what it has of real calls, after a kill, and while its disk takes nothing."""

import asyncio
import contextlib

import grpc
import pytest
from finetree_api.trainer.v1 import dataset_pb2, trainer_pb2
from finetree_cli.backends.audit.records import lines
from finetree_cli.backends.audit.verify import verify
from finetree_runtime.config.settings import SettingsError
from trainer_harness import ROWS, jsonl, refusal, server, trainer

WAIT = 60


def log_of(tmp_path):
    return tmp_path / "audit" / "finetree-trainer"


def calls(tmp_path):
    """(event, rpc, code) of each record that is about a call."""
    found = [line.record for line in lines(log_of(tmp_path)) if line.record]
    return [
        (record["event"], record["method"].rpartition("/")[2], record.get("code", ""))
        for record in found
        if record["event"] in ("begin", "call")
    ]


async def recorded(tmp_path, count):
    """Wait until there are so many records about calls."""
    async with asyncio.timeout(WAIT):
        while len(calls(tmp_path)) < count:  # noqa: ASYNC110 - another process writes the file
            await asyncio.sleep(0.01)


async def delete(talk, name, **fields):  # noqa: ANN003 - fields of the request
    with contextlib.suppress(grpc.aio.AioRpcError):
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=name, **fields))


async def test_changes_and_uploads_are_recorded_with_names_and_codes_and_without_texts(tmp_path):
    async with trainer(tmp_path, audit_dir=tmp_path / "audit") as talk:
        dataset = await talk.upload(jsonl(ROWS), display_name="a private name")
        await talk.stub.ListDatasets(dataset_pb2.ListDatasetsRequest())
        await delete(talk, dataset.name)
        await delete(talk, dataset.name)
    assert calls(tmp_path) == [
        ("call", "CreateDataset", "OK"),
        ("begin", "WriteDataset", ""),
        ("call", "WriteDataset", "OK"),
        ("call", "DeleteDataset", "OK"),
        ("call", "DeleteDataset", "NOT_FOUND"),
    ]
    found = [line.record for line in lines(log_of(tmp_path))]
    assert [record["event"] for record in (found[0], found[-1])] == ["start", "stop"]
    created, begun = found[1], found[2]
    assert (created["principal"], created["kind"], created["peer"][:5]) == ("local", "local", "ipv4:")
    assert created["resources"] == [dataset.name]
    assert begun["resources"] == [dataset.name]
    assert found[5]["reason"] == "DATASET_NOT_FOUND"
    content = b"".join(file.read_bytes() for file in log_of(tmp_path).glob("*.jsonl"))
    assert b"Question 1" not in content
    assert b"private" not in content
    assert verify(log_of(tmp_path)).fault is None


async def test_all_calls_are_recorded_where_that_is_asked_for_and_none_where_not(tmp_path):
    async with trainer(tmp_path, audit_dir=tmp_path / "audit", audit="all") as talk:
        await talk.stub.ListDatasets(dataset_pb2.ListDatasetsRequest())
    assert calls(tmp_path) == [("call", "ListDatasets", "OK")]
    async with trainer(tmp_path, audit_dir=tmp_path / "audit", audit="off") as talk:
        await talk.create_dataset(jsonl(ROWS))
    assert len(calls(tmp_path)) == 1


async def test_what_was_recorded_before_a_kill_is_continued_after_it(tmp_path):
    async with server(tmp_path, {}, audit_dir=tmp_path / "audit") as (running, before):
        await before.create_dataset(jsonl(ROWS))
        await recorded(tmp_path, 1)
        await running.kill()
        with next(log_of(tmp_path).glob("*.jsonl")).open("ab") as stream:
            stream.write(b'{"seq":3,"time":"20')
        talk = await running.start()
        await talk.create_dataset(jsonl(ROWS[:5]))
        await recorded(tmp_path, 2)
        await running.stop()
    verdict = verify(log_of(tmp_path))
    assert (verdict.fault, verdict.torn) == (None, 1)
    events = [line.record["event"] for line in lines(log_of(tmp_path)) if line.record]
    assert events == ["start", "call", "torn", "start", "call", "stop"]


@pytest.mark.parametrize("required", [False, True])
async def test_a_log_that_cannot_be_written_stops_changes_only_where_it_is_required(tmp_path, required):
    settings = {"audit_dir": tmp_path / "audit", "audit_file_bytes": 1, "audit_required": required}
    async with trainer(tmp_path, **settings) as talk:
        await talk.create_dataset(jsonl(ROWS))
        await recorded(tmp_path, 2 if required else 1)
        log_of(tmp_path).rename(tmp_path / "moved")
        if required:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await talk.create_dataset(jsonl(ROWS[:5]))
            assert refusal(caught.value)[:2] == ("UNAVAILABLE", "AUDIT_UNAVAILABLE")
            assert len((await talk.stub.ListDatasets(dataset_pb2.ListDatasetsRequest())).datasets) == 1
        else:
            await talk.create_dataset(jsonl(ROWS[:5]))
        (tmp_path / "moved").rename(log_of(tmp_path))
        await talk.create_dataset(jsonl(ROWS[:7]))
    codes = [code for event, _, code in calls(tmp_path) if event == "call"]
    assert codes == ["OK", "UNAVAILABLE" if required else "OK", "OK"]
    assert verify(log_of(tmp_path)).fault is None


async def test_two_services_do_not_share_a_log(tmp_path):
    async with trainer(tmp_path, audit_dir=tmp_path / "audit"):
        with pytest.raises(SettingsError) as caught:
            async with trainer(tmp_path / "other", audit_dir=tmp_path / "audit"):
                pass
    assert caught.value.reason == "AUDIT_DIR_IN_USE"


@pytest.mark.parametrize("settings", [{"audit": "changes"}, {"audit_required": True}])
async def test_an_audit_without_a_folder_prevents_the_start(tmp_path, settings):
    with pytest.raises(SettingsError, match="audit_dir"):
        async with trainer(tmp_path, **settings):
            pass


async def test_jobs_are_named_by_the_record_of_their_creation(tmp_path):
    async with trainer(tmp_path, {"steps": 1}, audit_dir=tmp_path / "audit") as talk:
        job = await talk.train(suspended=True, request_id="once")
        await talk.stub.GetJob(trainer_pb2.GetJobRequest(name=job.name))
        await talk.cancel(job.name)
    made = [line.record for line in lines(log_of(tmp_path)) if line.record.get("method", "").endswith("Job")]
    assert [record["resources"][-1] for record in made] == [job.name, job.name]
