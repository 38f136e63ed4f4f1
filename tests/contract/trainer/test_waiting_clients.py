# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - the service has no event of a watcher
"""Waiting for jobs and watching all of them as people do: by the SDK, by the command, through a restart."""

import asyncio
import json
import os
import runpy
import signal
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import finetree
import httpx2
import pytest
from finetree._shared.fork import GATE
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_cli import __main__ as entry
from finetree_cli.backends.project_events import project_events
from finetree_trainer.joblog.project.watch import ProjectWatches
from finetree_trainer.store import events
from held_port import held_port
from trainer_harness import ROWS, jsonl, server, trainer

TERMINAL = event_pb2.EVENT_KIND_TERMINAL
SHOWN = ("state_changed", "terminal")
CONSOLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "console" / "conftest.py")))


@pytest.fixture
def run(capsys):
    async def command(*words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command that runs beside the trainer."""
        code = await asyncio.wait_for(asyncio.to_thread(entry.run, list(words)), 60)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, "".join(f"{line}\n" for line in captured.err.splitlines() if line[:1] != "{")

    return command


async def test_the_sdk_waits_for_a_state_without_a_stream(tmp_path):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.01}) as talk:
        name = (await talk.train()).name
        async with finetree.AsyncClient(talk.address) as client:
            job = client.job(name)
            assert (await job.wait_for("running", timeout=60)).reached
            with pytest.raises(finetree.FinetreeTimeout, match="job or transfer continues"):
                await job.wait_for(timeout=0.3)
            assert not (await client.wait_job(name, "succeeded", wait=0)).reached
        with finetree.Client(talk.address) as client:
            waiting = asyncio.create_task(asyncio.to_thread(client.job(name).wait_for, timeout=60))
            # A fork does not wait for a call that waits: its thread leaves the gate once the call is under way.
            async with asyncio.timeout(60):
                while GATE._in_flight or not talk.application._watches._open:
                    await asyncio.sleep(0.01)
            await talk.cancel(name)
            found = await waiting
            assert (found.reached, found.job.state) == (True, job_pb2.JOB_STATE_CANCELLED)
            other = await asyncio.to_thread(client.job(name).wait_for, "succeeded")
            assert not other.reached
            with pytest.raises(finetree.InvalidArgument, match="states"):
                client.wait_job(name, "somewhere", wait=0)


async def test_a_command_waits_for_several_jobs_and_its_exit_code_tells_how_they_ended(tmp_path, run, monkeypatch):
    async with trainer(tmp_path, {"steps": 3, "artifact": True}) as talk:
        monkeypatch.setenv("FINETREE_ADDRESS", talk.address)
        dataset = (await talk.upload(jsonl(ROWS))).name
        names = [(await talk.train(dataset=dataset)).name for _ in range(3)]
        code, out, err = await run("jobs", "wait", *names)
        assert (code, out) == (0, "")
        assert err.count("succeeded") == 3
        assert (await run("jobs", "wait", names[0], "--for", "running"))[0] == 0
        suspended = await talk.train(dataset=dataset, suspended=True)
        code, out, err = await run("jobs", "wait", names[0], suspended.name, "--timeout", "1s", "--json")
        assert (code, "timed out" in err) == (6, True)
        found = json.loads(out)
        assert [each["state"] for each in found["jobs"]] == ["JOB_STATE_SUCCEEDED", "JOB_STATE_QUEUED"]
        assert [each["reached"] for each in found["jobs"]] == [True, False]
        await talk.cancel(suspended.name)
        code, out, err = await run("jobs", "wait", suspended.name, names[1])
        assert (code, "cancelled" in err) == (4, True)
        assert (await run("jobs", "wait", suspended.name, "--for", "terminal"))[0] == 0
        assert (await run("jobs", "wait", "no-such-job"))[0] == 2


async def test_a_command_that_is_interrupted_names_the_jobs_that_are_not_there_yet(tmp_path):
    async with trainer(tmp_path, {"steps": 3, "artifact": True}) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        ended, waits = [await talk.train(dataset=dataset, suspended=suspended) for suspended in (False, True)]
        await talk.events(ended.name)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "finetree_cli", "jobs", "wait", ended.name, waits.name),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"FINETREE_ADDRESS": talk.address},
        )
        assert process.stderr is not None
        first = await asyncio.wait_for(process.stderr.readline(), 60)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 60)
        assert b"succeeded" in first
        assert f"detached; not there yet: {waits.uid}" in err.decode()
        assert (process.returncode, b"Traceback" in err) == (6, False)


async def test_a_command_that_waits_for_a_paused_job_says_how_it_goes_on(tmp_path, run, monkeypatch):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.01}) as talk:
        monkeypatch.setenv("FINETREE_ADDRESS", talk.address)
        job = await talk.train()
        assert (await run("jobs", "wait", job.uid, "--for", "running", "--timeout", "60s"))[0] == 0
        assert (await run("jobs", "pause", job.uid, "--wait", "60s"))[0] == 0
        code, _, err = await run("jobs", "wait", job.uid, "--timeout", "1s")
        assert (code, f"{job.uid} paused" in err) == (6, True)
        assert f"`finetree jobs resume {job.uid}`" in err
        shown = (await talk.job(job.name)).state_reason
        assert shown.remedy == f"Resume it (`finetree jobs resume {job.uid}`)."


async def test_a_command_shows_a_line_for_each_change_of_every_job(tmp_path, run, monkeypatch):
    async with trainer(tmp_path, {"steps": 3, "artifact": True}) as talk:
        monkeypatch.setenv("FINETREE_ADDRESS", talk.address)
        dataset = (await talk.upload(jsonl(ROWS))).name
        jobs = [await talk.train(dataset=dataset, display_name=f"number {n}", labels={"n": str(n)}) for n in range(2)]
        for job in jobs:
            await talk.events(job.name)
        code, out, _ = await run("jobs", "watch", "--from-start", "--timeout", "3s", "--json")
        lines = [json.loads(line) for line in out.splitlines()]
        assert code == 0
        assert [line["kind"] for line in lines].count("EVENT_KIND_TERMINAL") == 2
        assert [line["kind"] for line in lines].count("EVENT_KIND_ARTIFACT_READY") == 2
        begin = ("--cursor", lines[0]["cursor"])
        code, out, err = await run("jobs", "watch", *begin, "--label", "n=1", "--timeout", "3s")
        assert code == 0
        assert len(out.splitlines()) == sum(line["job"] == jobs[1].name for line in lines[1:])
        assert jobs[0].uid not in out
        assert "number 1  queued: " in out
        assert "ended, succeeded: " in out
        assert "--cursor" in err
        assert (await run("jobs", "watch", jobs[0].uid, "--label", "n=1"))[0] == 2
        assert (await run("jobs", "watch", "--after-seq", "3"))[0] == 2
        assert (await run("jobs", "watch", "--cursor", "x", "--timeout", "5s"))[0] == 2


def followed(client: finetree.Client, until: str, gaps: list[bool]) -> list[str]:
    """Jobs of the events up to the end of the job that is called so."""
    seen = []
    with closing(project_events(client, lambda: gaps.append(True), kinds=("terminal",), heartbeat=60.0)) as events:
        for event, _ in events:
            seen.append(event.job)
            if client.get_job(event.job).display_name == until:
                return seen
    return seen


async def test_a_deleted_job_ends_no_watch_of_the_others(tmp_path):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.01}) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        jobs = [await talk.train(dataset=dataset, display_name=name) for name in ("gone", "last")]
        gaps: list[bool] = []
        with finetree.Client(talk.address) as client:
            watching = asyncio.create_task(asyncio.to_thread(followed, client, "last", gaps))
            signals = next(
                watches._signals
                for watches in (follower.__self__ for follower in talk.application._log.followers)
                if isinstance(watches, ProjectWatches)
            )
            while not (signals and signals["default"].waiting):
                await asyncio.sleep(0.01)
            reached = (await talk.job(jobs[0].name)).last_seq
            await talk.until(jobs[0].name, lambda event: event.seq > reached)
            # What is stored and removed before a watcher reads it is no silent gap.
            store = talk.application._store
            await store.write(lambda connection: events.remove_all(connection, jobs[0].uid))
            await talk.cancel(jobs[1].name)
            assert await asyncio.wait_for(watching, 60) == [jobs[1].name]
        assert gaps == [True]


async def test_a_watcher_of_all_jobs_goes_on_through_a_killed_trainer(tmp_path):
    found: list[event_pb2.JobEvent] = []
    address = f"127.0.0.1:{held_port()}"
    async with server(tmp_path, {"steps": 30, "delay": 0.01}, cpu_slots=2, address=address) as (running, talk):
        dataset = (await talk.upload(jsonl(ROWS))).name
        for _ in range(2):
            await talk.train(dataset=dataset)
        async with finetree.AsyncClient(address, reconnect_timeout=60) as client, asyncio.timeout(60):
            kinds = [kind for kind in event_pb2.EventKind.values() if kind]
            stream = client.watch_jobs(kinds=kinds, heartbeat=0.5)
            async for event in stream:
                found.append(event)
                if len(found) == 20:
                    await running.kill()
                    talk = await running.start()  # noqa: PLW2901 - the client of the trainer that runs now
                if sum(event.kind == TERMINAL for event in found) == 2:
                    break
            await stream.close()
        logs = [event for uid in {event.job for event in found} for event in await talk.events(uid)]
        seen = [(event.job_uid, event.seq) for event in found]
        assert len(seen) == len(set(seen))
        assert set(seen) == {(event.job_uid, event.seq) for event in logs}


async def test_a_trace_of_a_job_holds_what_its_log_holds(tmp_path, run, monkeypatch):
    async with trainer(tmp_path, {"steps": 12, "artifact": True}) as talk:
        monkeypatch.setenv("FINETREE_ADDRESS", talk.address)
        job = await talk.train(display_name="traced")
        log = await talk.events(job.name)
        code, out, err = await run("jobs", "trace", job.uid, "-o", str(tmp_path / "job.json"))
        assert (code, out.strip()) == (0, str(tmp_path / "job.json"))
        assert "12 steps" in err
        document = json.loads((tmp_path / "job.json").read_text())
        spans = [entry for entry in document["traceEvents"] if entry["ph"] == "X"]
        steps = [event for event in log if event.HasField("step_metrics")]
        assert [span["args"]["seq"] for span in spans if span["cat"] == "steps"] == [event.seq for event in steps]
        states = [event for event in log if event.HasField("state_changed")]
        assert [span["args"]["seq"] for span in spans if span["cat"] == "state"] == [e.seq for e in states[:-1]]
        assert document["otherData"] == {
            "job": job.name,
            "start_time": log[0].event_time.ToJsonString(),
            "last_seq": log[-1].seq,
        }
        code, out, _ = await run("jobs", "trace", job.uid, "-o", "-")
        assert (code, json.loads(out)) == (0, document)
        async with finetree.AsyncClient(talk.address) as client:
            assert await client.job(job.name).trace() == document


def streamed(address: str, count: int, *, last_id: str = "") -> tuple[list[dict], list[str]]:
    """Events and ids of the first frames of the stream of all jobs over HTTP."""
    head = {"last-event-id": last_id} if last_id else {}
    query = {"kinds": ["EVENT_KIND_STATE_CHANGED", "EVENT_KIND_TERMINAL"], "parent": "projects/default"}
    received = ""
    with (
        httpx2.Client(base_url=f"http://{address}", timeout=60) as http,
        http.stream("GET", "/trainer/v1/WatchJobs", params=query, headers=head) as response,
    ):
        assert response.status_code == 200
        for piece in response.iter_text():
            received += piece
            if received.count("data: ") >= count and received.endswith("\n\n"):
                break
    lines = received.splitlines()
    documents = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return documents, [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]


async def test_all_jobs_are_watched_over_http_from_behind_any_id(tmp_path):
    async with trainer(tmp_path, {"steps": 3}) as talk:
        job = await talk.train()
        log = [event for event in await talk.events(job.name) if event.WhichOneof("payload") in SHOWN]
        with CONSOLE.serving(None, trainer_address=talk.address) as address:
            found, ids = await asyncio.to_thread(streamed, address, len(log))
            assert [event["seq"] for event in found] == [event.seq for event in log]
            rest, _ = await asyncio.to_thread(streamed, address, len(log) - 2, last_id=ids[1])
            assert rest == found[2:]
