# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110, PLW2901 - a process that is gone sets no event; the client is made anew with the server
"""Backups of a trainer under load, restored: what was backed up is whole, and what follows it is another history."""

import asyncio
import contextlib
import io
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from finetree_api.trainer.v1 import event_log_pb2, event_pb2
from finetree_api.worker.v1 import worker_pb2, worker_pb2_grpc
from finetree_data.fail_points import VARIABLE
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.backup.__main__ import main
from finetree_trainer.layout import Layout
from finetree_trainer.store.database import Store
from trainer_harness import OPTIONS, ROWS, assert_whole, jsonl, refusal, server, states, steps, trainer

STEP = event_pb2.EVENT_KIND_STEP_METRICS


def result(*words: object) -> dict[str, Any]:
    """What the program prints, run in this process: a start of Python costs more than a backup."""
    code, document = call(*words)
    assert code == 0, document
    return document["result"]


def reason(*words: object) -> str:
    code, document = call(*words)
    assert code == 1, document
    return document["error"]["reason"]


def call(*words: object) -> tuple[int, dict[str, Any]]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main([str(word) for word in words])
    return code, json.loads(printed.getvalue().splitlines()[-1])


def moved_away(tmp_path: Path) -> None:
    """Lose the data folder; workers of the service that had it may live on."""
    (tmp_path / "data").rename(tmp_path / "lost")


def log_in(database: Path) -> dict[str, int]:
    """Newest event by job."""
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT uid, last_seq FROM jobs").fetchall())


async def refused(talk, name: str, cursor: str) -> str:
    call = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=name, cursor=cursor))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(call))
    return refusal(error.value)[1]


async def first_cursor(talk, name: str) -> str:
    call = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=name))
    async for batch in call:
        if batch.cursor:
            call.cancel()
            return batch.cursor
    raise AssertionError


async def test_a_backup_under_load_is_restored_as_after_a_crash(tmp_path):
    """One job has ended, one runs and writes as fast as it can, one waits; backups are taken meanwhile."""
    backups = tmp_path / "backups"
    script = {"steps": 10**6, "delay": 0.002, "artifact": True}
    async with server(tmp_path, {"steps": 20, "artifact": True}, orphan_grace=60.0) as (running, talk):
        dataset = (await talk.upload(jsonl(ROWS))).name
        ended = await talk.train(dataset=dataset, request_id="ended")
        history = await talk.events(ended.name)
        (tmp_path / "script.json").write_text(json.dumps(script))
        busy = await talk.train(dataset=dataset, request_id="busy")
        waiting = await talk.train(dataset=dataset, request_id="waiting")
        await talk.until(busy.name, lambda e: e.kind == STEP and e.step_metrics.step >= 20)
        created = [
            await asyncio.to_thread(result, "create", backups, "--data-dir", tmp_path / "data") for _ in range(2)
        ]
        lost = await talk.train(dataset=dataset, request_id="lost")
        cursor = await first_cursor(talk, busy.name)
        # However long the backups took: what they have is not all that a client has seen.
        stored = (await talk.job(busy.name)).last_seq
        before = await talk.until(busy.name, lambda e: e.kind == STEP and e.seq > stored)
        await running.kill()
        assert [each["missing"] for each in created] == [[], []]
        assert created[0]["jobs"] == 3
        assert created[0]["live_jobs"] == 2
        # Only what is new was written again: the dataset and the artifact were not.
        assert created[1]["written_bytes"] < created[0]["written_bytes"]

        moved_away(tmp_path)
        words = ("restore", backups, "--to", tmp_path / "data", "--at", created[1]["time"])
        # The worker of the service that was killed trains on, and would write into the folder that has its old name.
        assert reason(*words) == "RESTORE_WORKERS_ALIVE"
        worker = next((tmp_path / "lost" / "workers").glob("*/process.json"))
        os.kill(json.loads(worker.read_text())["pid"], 9)
        async with asyncio.timeout(60):
            while call(*words)[0]:
                await asyncio.sleep(0.1)
        known = log_in(tmp_path / "data" / "trainer.db")
        assert set(known) == {ended.uid, busy.uid, waiting.uid}
        assert known[busy.uid] <= before[-1].seq

        (tmp_path / "script.json").write_text(json.dumps(script | {"steps": 30, "delay": 0}))
        talk = await running.start()
        assert await talk.events(ended.name) == history
        events = await talk.events(busy.name)
        assert_whole(events)
        assert events[: known[busy.uid]] == before[: known[busy.uid]]
        assert states(events)[2:] == ["RUNNING", "RECOVERING", "PREPARING", "RUNNING", "SUCCEEDED"]
        assert steps(events)[-30:] == [(2, step) for step in range(1, 31)]
        assert_whole(await talk.events(waiting.name))
        # What clients see of the history that is lost.
        assert await refused(talk, busy.name, cursor) == "LOG_RESET"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.job(lost.name)
        assert refusal(error.value)[1] == "JOB_NOT_FOUND"
        assert (await talk.train(dataset=dataset, request_id="busy")).name == busy.name
        assert (await talk.train(dataset=dataset, request_id="lost")).name != lost.name


async def test_a_worker_of_the_former_service_is_refused_by_the_restored_one(tmp_path):
    """The test speaks for the worker, which lives on somewhere with the secret that it was given."""
    async with trainer(tmp_path, {"never_attach": True}, data_dir=tmp_path / "data") as talk:
        job = await talk.train()
        async with asyncio.timeout(60):
            while len(words := secret(tmp_path / "data").split()) != 2:
                await asyncio.sleep(0.02)
        address, token = words
        task = (await said(address, worker_pb2.Hello(protocol_version=1, token=token))).welcome.task
        assert task.job == job.name
        hello = worker_pb2.Hello(protocol_version=1, job=task.job, attempt=task.attempt, token=task.token)
        assert (await said(address, hello)).HasField("welcome")
        await asyncio.to_thread(result, "create", tmp_path / "backups", "--data-dir", tmp_path / "data")
    result("restore", tmp_path / "backups", "--to", tmp_path / "new")
    async with trainer(tmp_path, {"never_attach": True}, data_dir=tmp_path / "new"):
        address = f"unix:{Layout(tmp_path / 'new').worker_socket}"
        for stale in (hello, worker_pb2.Hello(protocol_version=1, token=token)):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await said(address, stale)
            assert refusal(error.value)[1] == "WORKER_TOKEN_INVALID"


def secret(data: Path) -> str:
    """What the worker has written down: where its service is, and its secret; "" until then."""
    return next((file.read_text() for file in (data / "workers").glob("*/secret.txt")), "")


async def said(address: str, hello: worker_pb2.Hello) -> worker_pb2.AttachResponse:
    """What a service answers to a worker's first word."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
        await call.write(worker_pb2.AttachRequest(hello=hello))
        answer = await asyncio.wait_for(call.read(), 60)
        call.cancel()
        return answer


def interrupted(*words: object, fail_point: str = "", file_limit: int = 0) -> tuple[int, bytes]:
    """Run the program in a process that ends at a fail point, or may write no file longer than so many bytes."""

    def limit() -> None:
        if file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    done = subprocess.run(
        [sys.executable, "-P", "-m", "finetree_trainer.backup", *map(str, words)],
        env=os.environ | ({VARIABLE: fail_point} if fail_point else {}),
        capture_output=True,
        check=False,
        preexec_fn=limit,
    )
    return done.returncode, done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trainer's folder without jobs, with a base model of a megabyte."""
    layout = Layout(tmp_path / "data")
    model = layout.models / "base"
    model.mkdir(parents=True)
    Store(layout.database).close()
    (model / "weights.bin").write_bytes(os.urandom(2**20))
    return layout.root


@pytest.mark.parametrize("point", ["backup.after_piece", "backup.before_manifest"])
def test_a_killed_backup_is_none_and_the_next_one_is_whole(tmp_path, folder, point):
    backups = tmp_path / "backups"
    words = ("create", backups, "--data-dir", folder)
    assert interrupted(*words, fail_point=point)[0] == -signal.SIGKILL
    assert result("list", backups)["backups"] == []
    result(*words)
    assert result("verify", backups)["damaged"] == {}
    assert not list((backups / "drafts").iterdir())


@pytest.mark.parametrize("point", ["restore.before_database", "restore.before_end"])
async def test_a_killed_restore_is_no_data_folder_and_can_be_repeated(tmp_path, folder, point):
    backups, new = tmp_path / "backups", tmp_path / "new"
    result("create", backups, "--data-dir", folder)
    words = ("restore", backups, "--to", new)
    assert interrupted(*words, fail_point=point)[0] == -signal.SIGKILL
    with pytest.raises(SettingsError) as error:
        async with trainer(tmp_path, data_dir=new):
            raise AssertionError
    assert error.value.reason == "DATA_DIR_UNFINISHED"
    result(*words)
    assert (new / "models/base/weights.bin").read_bytes() == (folder / "models/base/weights.bin").read_bytes()
    assert log_in(new / "trainer.db") == {}
    assert not Layout(new).restoring.exists()


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path, folder):
    backups, new = tmp_path / "backups", tmp_path / "new"
    made = result("create", backups, "--data-dir", folder)["id"]
    (folder / "models/base/more.bin").write_bytes(os.urandom(2**20))
    for words in (("create", backups, "--data-dir", folder), ("restore", backups, "--to", new)):
        code, printed = interrupted(*words, file_limit=2**19)
        assert (code, json.loads(printed.splitlines()[-1])["error"]["reason"]) == (1, "BACKUP_DISK_FULL")
    assert [each["id"] for each in result("list", backups)["backups"]] == [made]
    assert result("verify", backups)["damaged"] == {}
    assert [path.name for path in new.iterdir()] == ["service.lock"]
