# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110, PLW2901 - files and processes set no event; a client for each server
"""A served base model whose client, worker or service is killed: nobody waits for ever, and nothing is held."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import grpc
from finetree_api.trainer.v1 import event_pb2, job_pb2, serving_pb2, trainer_pb2
from trainer_harness import assert_whole, refusal, server, states, trainer

SLOW = {"words": 2000, "piece_delay": 0.01}
CLIENT = """
import sys, finetree
with finetree.Client(sys.argv[1]) as client:
    for piece in client.serving(sys.argv[2]).generate("for ever"):
        print(piece.text, flush=True)
"""


async def serving(talk, **settings) -> job_pb2.Job:  # noqa: ANN003 - fields of a ServeTask
    task = serving_pb2.ServeTask(max_context_tokens=64, **settings)
    task.model.path = "tiny"
    job = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=job_pb2.JobTemplate(serve=task)))).job
    await ready(talk, job)
    return job


async def ready(talk, job, attempt: int = 1) -> None:
    kind = event_pb2.EVENT_KIND_SERVING_CHANGED
    await talk.until(job.name, lambda event: event.kind == kind and event.attempt == attempt, 15)


def generate(talk, job):
    return talk.stub.Generate(serving_pb2.GenerateRequest(job=job.name, prompt="for ever"))


async def ending(call, pieces: int = 10**6) -> tuple[str, str]:
    """Code and reason with which a call ends before it has so many responses; empty where it goes on."""
    try:
        for _ in range(pieces):
            if await call.read() is grpc.aio.EOF:
                return "OK", ""
    except grpc.aio.AioRpcError as error:
        return refusal(error)[:2]
    return "", ""


async def generations(talk, job) -> int:
    return (await talk.stub.ListTargets(serving_pb2.ListTargetsRequest(job=job.name))).lease.generations


async def test_a_client_that_is_killed_holds_nothing_any_more(tmp_path):
    async with trainer(tmp_path, SLOW) as talk:
        job = await serving(talk)
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, talk.address, job.name, stdout=subprocess.PIPE
        )
        assert await client.stdout.readline()
        assert await generations(talk, job) == 1
        client.kill()
        await client.wait()
        told = tmp_path / "data/jobs" / job.uid / "attempts/1/cancelled.txt"
        async with asyncio.timeout(60):
            while not told.exists() or await generations(talk, job):
                await asyncio.sleep(0.02)


async def test_a_worker_that_is_killed_while_it_answers_ends_the_answer_and_is_followed_by_another(tmp_path):
    async with trainer(tmp_path, SLOW | {"die_at": 5}) as talk:
        job = await serving(talk)
        assert await ending(generate(talk, job)) == ("UNAVAILABLE", "WORKER_LOST")
        await ready(talk, job, attempt=2)
        call = generate(talk, job)
        for _ in range(10):
            assert (await call.read()).pieces
        call.cancel()
        # A second death in the second attempt is one too many.
        (note,) = (tmp_path / "data/workers").glob("*/process.json")
        os.kill(json.loads(note.read_text())["pid"], signal.SIGKILL)
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events)[-4:] == ["RECOVERING", "PREPARING", "RUNNING", "FAILED"]
        assert events[-1].terminal.failure_category == job_pb2.FAILURE_CATEGORY_SYSTEM


async def test_a_service_that_is_killed_finds_its_worker_serving_again(tmp_path):
    async with server(tmp_path, SLOW) as (running, talk):
        job = await serving(talk)
        call = generate(talk, job)
        assert (await call.read()).targets
        await running.kill()
        talk = await running.start()
        async with asyncio.timeout(60):
            while not (await listed(talk, job)).HasField("lease"):
                await asyncio.sleep(0.02)
        call = generate(talk, job)
        async with asyncio.timeout(60):
            while (how := await ending(call, pieces=3)) == ("UNAVAILABLE", "WORKER_LOST"):  # until the worker is back
                await asyncio.sleep(0.05)
                call = generate(talk, job)
        assert how == ("", "")
        found = await talk.job(job.name)
        assert (found.attempt, found.state) == (1, job_pb2.JOB_STATE_RUNNING)
        call.cancel()
        await talk.cancel(job.name)
        assert_whole(await talk.events(job.name))


async def listed(talk, job) -> serving_pb2.ListTargetsResponse:
    return await talk.stub.ListTargets(serving_pb2.ListTargetsRequest(job=job.name))
