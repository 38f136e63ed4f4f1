# SPDX-License-Identifier: Apache-2.0
"""WorkerService.Attach from the worker's side, against a real server."""

import asyncio
import random
import time
from itertools import pairwise

import grpc
import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_trainer.api import worker_servicer
from finetree_trainer.layout import Layout
from finetree_trainer.settings import Settings
from finetree_worker.attach.commands import Stop
from finetree_worker.attach.identity import Timing
from finetree_worker.control import Signal
from held_port import held_port

TASK = worker_pb2.Task(train=job_pb2.TrainTask(), job="projects/p/jobs/j", attempt=3, token="second-token")


async def test_hello_says_who_it_is_and_the_task_comes_with_the_welcome(service, serve, join, until):
    service.task = TASK
    await serve()
    worker = join()
    assert await worker.task() == TASK
    hello = service.hellos[0]
    assert (hello.protocol_version, hello.job, hello.attempt, hello.token) == (1, "projects/p/jobs/j", 3, "first-token")
    assert (hello.boot_id, hello.build, hello.node) == ("boot", "1.0", "node")
    assert hello.pid > 0


async def test_events_arrive_in_batches_and_are_acknowledged(service, serve, join):
    service.task = TASK
    await serve()
    worker = join()
    worker.bind()
    await asyncio.to_thread(worker.write, 2000)
    assert await worker.drain()
    assert [event.worker_seq for event in service.stored] == list(range(1, 2001))
    assert [event.event.log_line.text for event in service.stored] == [f"line {n}" for n in range(1, 2001)]
    assert service.batches < 1000
    assert not service.problems


@pytest.mark.parametrize("seed", range(3))
async def test_thirty_cuts_lose_nothing_and_repeat_nothing(service, serve, join, until, seed):
    chance = random.Random(seed)
    service.task = TASK
    service.cuts = [(chance.randint(1, 4), chance.random() < 0.5) for _ in range(30)]
    await serve()
    worker = join()
    worker.bind()
    while service.cuts:
        await asyncio.to_thread(worker.write, chance.randint(1, 40))
        await asyncio.sleep(0.002)
    await asyncio.to_thread(worker.write, 5)
    assert await worker.drain()
    assert [event.worker_seq for event in service.stored] == list(range(1, worker.journal.last_seq + 1))
    assert not service.problems
    assert len(service.hellos) >= 30
    assert {(h.token, h.job, h.attempt) for h in service.hellos[1:]} == {("second-token", TASK.job, 3)}
    assert not worker.refusals


async def test_a_cut_before_the_acknowledgement_sends_the_events_again(service, serve, join, until):
    service.task, service.acknowledges = TASK, False
    server = await serve()
    worker = join()
    worker.bind()
    worker.write(10)
    await until(lambda: len(service.stored) == 10, "all were sent")
    await server.stop(0)
    # The service comes back from a state in which it had stored four of them.
    del service.stored[4:]
    service.acknowledges = True
    await serve()
    assert await worker.drain()
    assert [event.worker_seq for event in service.stored] == list(range(1, 11))


async def test_a_worker_finds_a_service_that_starts_later(service, serve, join):
    service.task = TASK
    worker = join()
    worker.bind()
    worker.write(3)
    await serve()
    assert await worker.drain()
    assert len(service.stored) == 3


async def test_closing_ends_the_stream_cleanly(service, serve, join, until):
    service.task = TASK
    await serve()
    worker = join()
    await worker.task()
    await asyncio.to_thread(worker.stream.close)
    await until(lambda: service.clean_ends == 1, "the service saw the end")


async def test_fenced_at_hello(service, serve, join, until):
    service.fence = 4
    await serve()
    worker = join()
    await until(lambda: worker.refusals, "the refusal")
    assert worker.refusals == ["attempt 4 has taken over"]
    assert len(service.hellos) == 1
    assert worker.tasks.empty()


async def test_fenced_in_the_middle_of_the_work(service, serve, join, until):
    service.task = TASK
    await serve()
    worker = join()
    await worker.task()
    service.send(fenced=worker_pb2.Fenced(current_attempt=5))
    await until(lambda: worker.refusals, "the refusal")
    assert worker.refusals == ["attempt 5 has taken over"]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION])
async def test_a_wrong_token_or_protocol_ends_the_worker(service, serve, join, until, code):
    service.abort = code
    await serve()
    worker = join()
    await until(lambda: worker.refusals, "the refusal")
    assert worker.refusals == ["not here"]
    assert len(service.hellos) == 1


async def test_any_other_status_is_tried_again(service, serve, join, until):
    service.abort = grpc.StatusCode.INTERNAL
    await serve()
    worker = join()
    await until(lambda: len(service.hellos) >= 3, "attempts")
    service.abort, service.task = None, TASK
    assert await worker.task() == TASK


async def test_a_service_that_knows_more_than_the_journal_ends_the_worker(service, serve, join, until):
    service.task = TASK
    service.stored = [worker_pb2.WorkerEvent(worker_seq=n) for n in range(1, 6)]
    await serve()
    worker = join()
    await worker.task()
    worker.bind()
    await until(lambda: worker.refusals, "the refusal")
    assert "5 events" in worker.refusals[0]


async def test_an_idle_worker_tells_its_profile_gets_a_task_and_attaches_as_the_attempt(service, serve, join, until):
    server = await serve()
    worker = join(kind=job_pb2.TASK_KIND_UNSPECIFIED, job="", attempt=0)
    worker.stream.send_profile(worker_pb2.HostProfile(threads=2))
    await until(lambda: service.profiles, "the profile")
    service.send(task=TASK)
    assert await worker.task() == TASK
    worker.bind()
    worker.write(2)
    await until(lambda: len(service.stored) == 2, "events")
    await server.stop(0)
    await serve()
    await until(lambda: len(service.hellos) >= 2, "another hello")
    idle, attempt = service.hellos[0], service.hellos[-1]
    assert (idle.task_kind, idle.job, idle.attempt, idle.token) == (job_pb2.TASK_KIND_UNSPECIFIED, "", 0, "first-token")
    assert (attempt.task_kind, attempt.job) == (job_pb2.TASK_KIND_TRAIN, TASK.job)
    assert (attempt.attempt, attempt.token, attempt.boot_id) == (3, "second-token", idle.boot_id)


async def test_an_idle_worker_is_sent_home(service, serve, join, until):
    await serve()
    worker = join(kind=job_pb2.TASK_KIND_UNSPECIFIED, job="", attempt=0)
    await until(lambda: service.beats, "a sign of life")
    service.command("SHUTDOWN")
    assert await worker.task() is None


async def test_commands_reach_the_training_thread(service, serve, join, until):
    service.task = TASK
    await serve()
    worker = join()
    await worker.task()
    service.command("CHECKPOINT")
    await until(lambda: worker.commands.poll() is Signal.CHECKPOINT, "the checkpoint")
    service.command("PAUSE")
    await until(lambda: worker.commands.poll() is Signal.PAUSE, "the pause")
    service.command("CANCEL", save_checkpoint=True)
    await until(lambda: worker.commands.poll() is Signal.CANCEL_SAVING, "the cancel")


async def test_heartbeats_carry_phase_and_newest_event_and_come_twice_an_interval(service, serve, join, until):
    service.task, service.beat = TASK, 0.4
    await serve()
    began = time.monotonic()
    worker = join()
    worker.bind()
    worker.write(4)
    worker.stream.phase = job_pb2.JOB_PHASE_TRAIN
    await until(lambda: len(service.beats) >= 3, "heartbeats")
    times = [time.monotonic()]
    # A machine under load delays some of them, and brings none forward.
    while len(times) < 6 or min(later - earlier for earlier, later in pairwise(times)) >= 0.4:
        seen = len(service.beats)
        await until(lambda seen=seen: len(service.beats) > seen, "another")
        times.append(time.monotonic())
    assert len(service.beats) <= 1 + (time.monotonic() - began) / 0.2
    assert service.beats[-1].last_worker_seq == 4
    assert service.beats[-1].phase == job_pb2.JOB_PHASE_TRAIN
    assert len(service.hellos) == 1


async def test_a_silent_service_is_left_and_joined_again(service, serve, join, until):
    service.task, service.beat, service.silent = TASK, 0.1, True
    await serve()
    worker = join()
    await until(lambda: len(service.hellos) >= 3, "it attached again")
    service.silent = False
    # The stream that finds the service talking again stays.
    await until(lambda: len(service.beats) >= 1 and worker.tasks.qsize() == 1, "one task only")


async def test_an_orphan_is_told_to_save_and_end(service, serve, join, until):
    service.task, service.grace = TASK, 0.5
    server = await serve()
    worker = join()
    await worker.task()
    assert worker.commands.stop is Stop.NONE
    await server.stop(0)
    await until(lambda: worker.commands.poll() is Signal.PAUSE, "the end of the lease")
    assert worker.commands.stop is Stop.INTERRUPT
    assert not worker.refusals


async def test_contact_renews_the_lease(service, serve, join, until):
    service.task, service.grace, service.beat = TASK, 1.0, 0.2
    await serve()
    worker = join()
    await until(lambda: len(service.beats) >= 15, "more than the grace's second of heartbeats")
    assert worker.commands.stop is Stop.NONE


async def test_an_idle_worker_without_a_service_ends(join, until):
    timing = Timing(idle_grace=0.2, first_backoff=0.01, longest_backoff=0.02)
    worker = join(kind=job_pb2.TASK_KIND_UNSPECIFIED, job="", attempt=0, timing=timing)
    assert await worker.task() is None


async def test_draining_gives_up_when_the_lease_is_over(service, serve, join, until):
    service.task, service.grace, service.acknowledges = TASK, 0.5, False
    server = await serve()
    worker = join()
    worker.bind()
    worker.write(3)
    await until(lambda: len(service.stored) == 3, "sent")
    await server.stop(0)
    assert not await asyncio.wait_for(worker.drain(), 60)


async def test_draining_waits_for_a_journal_that_the_stream_has_not_got_round_to(
    service, serve, join, until, monkeypatch
):
    service.task = TASK
    await serve()
    worker = join()
    await until(lambda: service.hellos, "attached")
    later = []
    monkeypatch.setattr(worker.stream, "_in_loop", later.append)
    worker.bind()
    monkeypatch.undo()
    worker.write(1)
    drained = asyncio.create_task(worker.drain())
    done, _ = await asyncio.wait({drained}, timeout=0.3)
    assert not done
    worker.stream._in_loop(later[0])
    assert await drained
    assert len(service.stored) == 1


async def test_requests_of_a_serving_task_and_its_replies_go_in_order(service, serve, join, until):
    service.task = TASK
    await serve()
    worker = join()
    port = worker.stream.serving
    await until(lambda: service.beats, "the stream")
    asked = await asyncio.to_thread(port.take, 0, 0.1)
    for number in (1, 2):
        service.send(serving=worker_pb2.ServingRequest(id=number, unload="x"))
    found = []
    while len(found) < 2:
        found += [request.id for _, request in (await asyncio.to_thread(port.take, asked.stream, 5)).requests]
    assert found == [1, 2]
    worker.bind()
    worker.write(2)
    for number in range(200):
        port.reply(asked.stream, worker_pb2.ServingReply(id=number))
    await until(lambda: len(service.replies) == 200, "the replies")
    assert [reply.id for reply in service.replies] == list(range(200))
    assert await worker.drain()
    assert (len(service.stored), service.problems, port.lost_seconds) == (2, [], 0.0)


async def test_a_cut_stream_forgets_its_requests_and_takes_no_late_replies(service, serve, join, until):
    service.task = TASK
    server = await serve()
    worker = join()
    port = worker.stream.serving
    await until(lambda: service.beats, "the stream")
    first = (await asyncio.to_thread(port.take, 0, 0.1)).stream
    service.send(serving=worker_pb2.ServingRequest(id=1, unload="x"))
    await asyncio.to_thread(port.take, first, 5)
    await server.stop(0)
    await until(lambda: port.lost_seconds > 0, "the loss of the stream")
    port.reply(first, worker_pb2.ServingReply(id=1))
    await serve()
    await until(lambda: len(service.hellos) == 2 and not port.lost_seconds, "the next stream")
    second = await asyncio.to_thread(port.take, first, 5)
    assert second.stream > first
    assert second.requests == ()
    port.reply(first, worker_pb2.ServingReply(id=1))
    port.reply(second.stream, worker_pb2.ServingReply(id=7))
    await until(lambda: service.replies, "the reply")
    assert [reply.id for reply in service.replies] == [7]


async def test_a_worker_of_another_machine_attaches_by_tls(service, join, until, authority_in, tmp_path):
    certificates = authority_in(tmp_path / "ca")
    address = f"localhost:{held_port()}"
    settings = Settings(
        launcher="ray",
        worker_address=address,
        tls_cert=certificates / "server.pem",
        tls_key=certificates / "server.key",
    )
    server = await worker_servicer.serve(service, Layout(tmp_path / "data"), settings)
    try:
        others = authority_in(tmp_path / "other")
        # A worker that speaks plain text, and one whose authority does not vouch for this service, are not attached.
        refused = join(address=address), join(address=address, authority=(others / "ca.pem").read_bytes())
        checking = join(address=address, authority=(certificates / "ca.pem").read_bytes())
        checking.bind()
        checking.write(3)
        assert await checking.drain()
        assert [event.event.log_line.text for event in service.stored] == ["line 1", "line 2", "line 3"]
        assert len(service.hellos) == 1
        assert not any(worker.refusals for worker in refused)
    finally:
        await server.stop(0)
