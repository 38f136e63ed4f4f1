# SPDX-License-Identifier: Apache-2.0
"""Waiting for jobs and watching all of them as people do: by the SDK, by the command, through a restart."""

import asyncio
import json

import finetree
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_cli import __main__ as entry
from trainer_harness import ROWS, jsonl, server, trainer

TERMINAL = event_pb2.EVENT_KIND_TERMINAL


@pytest.fixture
def run(capsys):
    async def command(*words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command that runs beside the trainer."""
        code = await asyncio.wait_for(asyncio.to_thread(entry.run, list(words)), 30)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, "".join(f"{line}\n" for line in captured.err.splitlines() if line[:1] != "{")

    return command


async def test_the_sdk_waits_for_a_state_without_a_stream(tmp_path):
    async with trainer(tmp_path, {"steps": 10**6, "delay": 0.01}) as talk:
        name = (await talk.train()).name
        async with finetree.AsyncClient(talk.address) as client:
            job = client.job(name)
            assert (await job.wait_for("running", timeout=20)).reached
            with pytest.raises(finetree.FinetreeTimeout, match="job or transfer continues"):
                await job.wait_for(timeout=0.3)
            assert not (await client.wait_job(name, "succeeded", wait=0)).reached
        with finetree.Client(talk.address) as client:
            waiting = asyncio.create_task(asyncio.to_thread(client.job(name).wait_for, timeout=20))
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


async def test_a_command_shows_a_line_for_each_change_of_every_job(tmp_path, run, monkeypatch):
    async with trainer(tmp_path, {"steps": 3, "artifact": True}) as talk:
        monkeypatch.setenv("FINETREE_ADDRESS", talk.address)
        dataset = (await talk.upload(jsonl(ROWS))).name
        jobs = [await talk.train(dataset=dataset, display_name=f"number {n}", labels={"n": str(n)}) for n in range(2)]
        for job in jobs:
            await talk.events(job.name)
        code, out, _ = await run("jobs", "watch", "--from-start", "--timeout", "1s", "--json")
        lines = [json.loads(line) for line in out.splitlines()]
        assert code == 0
        assert [line["kind"] for line in lines].count("EVENT_KIND_TERMINAL") == 2
        assert [line["kind"] for line in lines].count("EVENT_KIND_ARTIFACT_READY") == 2
        code, out, _ = await run("jobs", "watch", "--cursor", lines[2]["cursor"], "--timeout", "1s", "--json")
        assert [json.loads(line) for line in out.splitlines()] == lines[3:]
        code, out, err = await run("jobs", "watch", "--from-start", "--label", "n=1", "--timeout", "1s")
        assert code == 0
        assert jobs[1].uid in out
        assert jobs[0].uid not in out
        assert "number 1  queued: " in out
        assert "ended, succeeded: " in out
        assert "--cursor" in err
        assert (await run("jobs", "watch", jobs[0].uid, "--label", "n=1"))[0] == 2
        assert (await run("jobs", "watch", "--after-seq", "3"))[0] == 2
        assert (await run("jobs", "watch", "--cursor", "x", "--timeout", "5s"))[0] == 2


async def test_a_watcher_of_all_jobs_goes_on_through_a_killed_trainer(tmp_path):
    found: list[event_pb2.JobEvent] = []
    async with server(tmp_path, {"steps": 30, "delay": 0.01}, cpu_slots=2) as (running, talk):
        address = json.loads((tmp_path / "ready.json").read_text())["address"]
        running.options["address"] = address
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
