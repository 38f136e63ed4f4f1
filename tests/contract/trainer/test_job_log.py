# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - keyword arguments here are fields of a request
"""ReadJobLog and ListJobLogs: what workers write, from any place, to its end, also while it grows."""

import asyncio
from itertools import pairwise

import grpc
import pytest
from finetree_api.trainer.v1 import event_pb2, job_log_pb2, job_pb2
from trainer_harness import refusal, trainer


async def read(talk, name, **fields):
    request = job_log_pb2.ReadJobLogRequest(name=name, **fields)
    async with asyncio.timeout(60):
        return [piece async for piece in talk.stub.ReadJobLog(request)]


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


async def logs_of(talk, name):
    return list((await talk.stub.ListJobLogs(job_log_pb2.ListJobLogsRequest(parent=name))).logs)


async def test_a_log_is_read_whole_from_a_byte_and_from_its_end_when_the_job_has_ended(tmp_path):
    async with trainer(tmp_path, {"steps": 3, "log": "größe"}) as talk:
        name = (await talk.train()).name
        await talk.events(name)
        wanted = [f"attempt 1 step {step}: größe\n" for step in (1, 2, 3)]
        pieces = await read(talk, name)
        assert text_of(pieces) == "".join(wanted)
        size = len("".join(wanted).encode())
        assert (pieces[0].attempt, pieces[0].offset, pieces[-1].next_offset) == (1, 0, size)
        assert text_of(await read(talk, name, last_lines=2)) == "".join(wanted[1:])
        assert text_of(await read(talk, name, last_lines=9)) == "".join(wanted)
        assert text_of(await read(talk, name, last_lines=0)) == ""
        assert text_of(await read(talk, name, attempt=1, offset=len(wanted[0].encode()))) == "".join(wanted[1:])
        assert text_of(await read(talk, name, offset=size)) == ""
        assert text_of(await read(talk, name, follow=True)) == "".join(wanted)
        (log,) = await logs_of(talk, name)
        assert (log.attempt, log.size_bytes, log.kept_bytes) == (1, size, size)
        assert log.end_time.ToMicroseconds() >= log.start_time.ToMicroseconds() > 0


async def test_a_log_is_followed_through_every_attempt_to_the_job_s_end(tmp_path):
    script = {"steps": 5, "delay": 0.1, "log": "x", "kill_at": {"1": 3}}
    async with trainer(tmp_path, script) as talk:
        job = await talk.train(suspended=False)
        whole, first = await asyncio.gather(
            read(talk, job.name, follow=True), read(talk, job.name, follow=True, last_attempt=1)
        )
        assert (await talk.job(job.name)).state == job_pb2.JOB_STATE_SUCCEEDED
        lines = [f"attempt 1 step {step}: x" for step in range(1, 4)]
        assert text_of(first).splitlines() == lines
        assert text_of(whole).splitlines() == lines + [f"attempt 2 step {step}: x" for step in range(1, 6)]
        for attempt in (1, 2):
            ends = [(piece.offset, piece.next_offset) for piece in whole if piece.attempt == attempt and piece.text]
            assert ends[0][0] == 0
            assert all(end == begin for (_, end), (begin, _) in pairwise(ends))
        assert [log.attempt for log in await logs_of(talk, job.name)] == [1, 2]
        assert text_of(await read(talk, job.name)) == text_of([piece for piece in whole if piece.attempt == 2])


async def test_of_a_long_log_the_beginning_and_the_newest_lines_are_kept(tmp_path):
    async with trainer(tmp_path, {"steps": 40, "log": "y" * 100, "log_limit": 500}) as talk:
        name = (await talk.train()).name
        await talk.events(name)
        lines = text_of(await read(talk, name)).splitlines()
        assert lines[0].startswith("attempt 1 step 1:")
        assert lines[-1].startswith("attempt 1 step 40:")
        assert len(lines) < 20
        pieces = await read(talk, name)
        assert any(later.offset > piece.next_offset for piece, later in pairwise(pieces))
        (log,) = await logs_of(talk, name)
        assert log.kept_bytes < 1500 < log.size_bytes == pieces[-1].next_offset


async def test_what_is_no_log_is_refused(tmp_path):
    async with trainer(tmp_path, {"steps": 3, "log": "x"}, max_watchers_per_caller=1) as talk:
        waiting = (await talk.train(suspended=True)).name
        done = (await talk.train()).name
        await talk.events(done)
        assert await logs_of(talk, waiting) == []
        for name, fields, wanted in (
            (waiting, {}, ("NOT_FOUND", "LOG_NOT_FOUND")),
            (done, {"attempt": 2}, ("NOT_FOUND", "LOG_NOT_FOUND")),
            (done, {"attempt": 2, "follow": True}, ("NOT_FOUND", "LOG_NOT_FOUND")),
            (done, {"offset": 10**6}, ("OUT_OF_RANGE", "OFFSET_BEYOND_END")),
            (done[:-4] + "0000", {}, ("NOT_FOUND", "JOB_NOT_FOUND")),
            (done, {"last_lines": 1_000_001}, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await read(talk, name, **fields)
            assert refusal(error.value)[:2] == wanted, fields
        followed = talk.stub.ReadJobLog(job_log_pb2.ReadJobLogRequest(name=waiting, follow=True))
        first = await followed.read()
        assert (first.attempt, first.text) == (0, "")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await read(talk, done, follow=True)
        assert refusal(error.value)[:2] == ("RESOURCE_EXHAUSTED", "TOO_MANY_WATCHERS")
        await talk.application.drain()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await followed.read()
        assert refusal(error.value)[:2] == ("UNAVAILABLE", "SERVER_STOPPING")


async def test_a_job_that_is_cancelled_while_it_waits_ends_who_follows_its_log(tmp_path):
    async with trainer(tmp_path, {"steps": 3, "log": "x"}) as talk:
        name = (await talk.train(suspended=True)).name
        following = asyncio.create_task(read(talk, name, follow=True))
        await talk.until(name, lambda event: event.kind == event_pb2.EVENT_KIND_STATE_CHANGED)
        await talk.cancel(name)
        assert text_of(await following) == ""
