# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202, ASYNC110 - a walk's parts; a state that a job may have been in before
"""`allowed_actions` is what the server accepts: in every state each action is asked for, allowed or not."""

import asyncio

import grpc.aio
import pytest
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2, retention_pb2, serving_pb2
from trainer_harness import ROWS, jsonl, refusal, server, write_script

pytestmark = pytest.mark.timeout(240)

STATE, ACTION = job_pb2.JobState, job_pb2.JobAction
LONG = {"steps": 3000, "delay": 0.01, "artifact": True}
DEAF = LONG | {"deaf": True}
REFUSED = {
    ACTION.JOB_ACTION_PAUSE: "JOB_NOT_PAUSABLE",
    ACTION.JOB_ACTION_RESUME: "JOB_NOT_PAUSED",
    ACTION.JOB_ACTION_MOVE: "JOB_NOT_WAITING",
    ACTION.JOB_ACTION_GENERATE: "NOT_SERVING",
    ACTION.JOB_ACTION_DELETE: "JOB_NOT_ENDED",
}


class Walk:
    """Takes jobs through their states. `seen` and `taken` have the actions of each state, suspended or not."""

    def __init__(self, talk) -> None:
        self.talk = talk
        self.seen: dict[tuple[str, bool], set[int]] = {}
        self.taken: dict[tuple[str, bool], set[int]] = {}

    async def ask(self, name: str, action: int) -> str:
        """Ask for an action; the reason of its refusal, "" for none."""
        stub = self.talk.stub
        try:
            match action:
                case ACTION.JOB_ACTION_CANCEL:
                    await self.talk.cancel(name)
                case ACTION.JOB_ACTION_PAUSE:
                    await self.talk.pause(name)
                case ACTION.JOB_ACTION_RESUME:
                    await self.talk.resume(name)
                case ACTION.JOB_ACTION_MOVE:
                    await self.talk.move(name)
                case ACTION.JOB_ACTION_DELETE:
                    await stub.DeleteJob(retention_pb2.DeleteJobRequest(name=name, validate_only=True))
                case ACTION.JOB_ACTION_GENERATE:
                    await stub.Generate(serving_pb2.GenerateRequest(job=name, prompt="a")).read()
                case ACTION.JOB_ACTION_DOWNLOAD:
                    made = (await stub.ListArtifacts(artifact_pb2.ListArtifactsRequest(parent=name))).artifacts
                    return "" if made else "NO_ARTIFACT"
        except grpc.aio.AioRpcError as error:
            return refusal(error)[1]
        return ""

    async def reach(self, name: str, state: int) -> job_pb2.Job:
        """Wait until a job is in a state that it may have been in before."""
        async with asyncio.timeout(60):
            while (job := await self.talk.job(name)).state != state:
                await asyncio.sleep(0.02)
        return job

    async def look(self, name: str, state: int) -> job_pb2.Job:
        """Look at a job in a state, and ask for each action that it does not allow: nothing may come of it."""
        job = await self.reach(name, state)
        allowed = self.seen.setdefault(self.key(job), set(job.allowed_actions))
        assert allowed == set(job.allowed_actions)
        for action, reason in REFUSED.items():
            if action not in allowed:
                assert await self.ask(name, action) == reason, (STATE.Name(state), ACTION.Name(action))
        if ACTION.JOB_ACTION_CANCEL not in allowed and state != STATE.JOB_STATE_CANCELLING:
            assert await self.ask(name, ACTION.JOB_ACTION_CANCEL) == ""
        after = await self.talk.job(name)
        if state not in {STATE.JOB_STATE_RUNNING, STATE.JOB_STATE_PAUSING, STATE.JOB_STATE_CANCELLING}:
            assert (after.state, after.state_reason, after.suspended) == (job.state, job.state_reason, job.suspended)
        return after

    async def take(self, name: str, state: int, action: int) -> None:
        """Look at a job in a state, then do what it allows."""
        job = await self.look(name, state)
        assert action in job.allowed_actions
        assert await self.ask(name, action) == ""
        self.taken.setdefault(self.key(job), set()).add(action)

    @staticmethod
    def key(job: job_pb2.Job) -> tuple[str, bool]:
        return STATE.Name(job.state).removeprefix("JOB_STATE_"), job.suspended


async def test_in_every_state_the_server_accepts_what_it_says_also_after_a_restart(tmp_path):
    async with server(tmp_path, DEAF, cancel_grace=60.0, checkpoint_grace=60.0) as (running, before):
        dataset = (await before.upload(jsonl(ROWS))).name
        walk = Walk(before)
        running_job = (await before.train(dataset=dataset)).name
        await before.until(running_job, lambda event: event.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        waits = (await before.train(dataset=dataset)).name

        async def waiting():
            for action in ("MOVE", "PAUSE"):
                await walk.take(waits, STATE.JOB_STATE_QUEUED, ACTION.Value(f"JOB_ACTION_{action}"))
            for action in ("MOVE", "RESUME"):
                await walk.take(waits, STATE.JOB_STATE_QUEUED, ACTION.Value(f"JOB_ACTION_{action}"))

        await waiting()
        await walk.take(running_job, STATE.JOB_STATE_RUNNING, ACTION.JOB_ACTION_PAUSE)
        await walk.look(running_job, STATE.JOB_STATE_PAUSING)
        await running.kill()
        walk.talk = talk = await running.start()
        await waiting()
        await walk.take(running_job, STATE.JOB_STATE_PAUSING, ACTION.JOB_ACTION_CANCEL)
        await walk.look(running_job, STATE.JOB_STATE_CANCELLING)
        await walk.take(waits, STATE.JOB_STATE_QUEUED, ACTION.JOB_ACTION_PAUSE)
        await walk.take(waits, STATE.JOB_STATE_QUEUED, ACTION.JOB_ACTION_CANCEL)
        await walk.take(waits, STATE.JOB_STATE_CANCELLED, ACTION.JOB_ACTION_DELETE)
        other = (await talk.train(dataset=dataset)).name
        await walk.take(other, STATE.JOB_STATE_QUEUED, ACTION.JOB_ACTION_CANCEL)
        await running.kill()
    async with server(tmp_path, LONG | {"start_delay": 1.5}) as (_, talk):
        walk.talk = talk
        paused = (await talk.train(dataset=dataset)).name
        await walk.take(paused, STATE.JOB_STATE_PREPARING, ACTION.JOB_ACTION_PAUSE)
        await walk.take(paused, STATE.JOB_STATE_PAUSED, ACTION.JOB_ACTION_RESUME)
        await walk.take(paused, STATE.JOB_STATE_PREPARING, ACTION.JOB_ACTION_CANCEL)
    write_script(tmp_path, LONG)
    async with server(tmp_path, LONG) as (_, talk):
        walk.talk = talk
        job = (await talk.train(dataset=dataset)).name
        await talk.until(job, lambda event: event.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        await talk.pause(job)
        await walk.take(job, STATE.JOB_STATE_PAUSED, ACTION.JOB_ACTION_CANCEL)
        write_script(tmp_path, LONG | {"kill_at": {"1": 100}})
        dies = (await talk.train(dataset=dataset)).name
        await talk.until(dies, lambda event: event.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        write_script(tmp_path, LONG)
        # It starts where the other one dies, which then waits.
        ahead = (await talk.train(dataset=dataset, priority=job_pb2.JOB_PRIORITY_HIGH)).name
        for action in ("MOVE", "PAUSE", "RESUME", "PAUSE", "MOVE", "CANCEL"):
            await walk.take(dies, STATE.JOB_STATE_RECOVERING, ACTION.Value(f"JOB_ACTION_{action}"))
        await walk.take(ahead, STATE.JOB_STATE_RUNNING, ACTION.JOB_ACTION_CANCEL)
        for script, state in (({"artifact": True}, STATE.JOB_STATE_SUCCEEDED), ({"outcome": "failed"}, 0)):
            write_script(tmp_path, {"steps": 2} | script)
            ended = (await talk.train(dataset=dataset)).name
            if state:
                await walk.take(ended, state, ACTION.JOB_ACTION_DOWNLOAD)
            await walk.take(ended, state or STATE.JOB_STATE_FAILED, ACTION.JOB_ACTION_DELETE)
    for key in (("FAILED", False), ("CANCELLED", True)):
        walk.taken[key].add(ACTION.JOB_ACTION_DOWNLOAD)  # if there is anything
    walk.taken[("RECOVERING", False)].add(ACTION.JOB_ACTION_CANCEL)  # a job is cancelled once: here while suspended
    assert walk.seen == {key: walk.taken.get(key, set()) for key in walk.seen}
    assert {state for state, _ in walk.seen} == {
        name.removeprefix("JOB_STATE_") for name in dict(STATE.items()) if name != "JOB_STATE_UNSPECIFIED"
    }
