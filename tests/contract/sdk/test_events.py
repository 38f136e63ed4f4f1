# SPDX-License-Identifier: Apache-2.0
"""A job's events over the wire."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import finetree
import pytest
from finetree.testing import Script
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2

ALL = list(range(1, 20))


@pytest.fixture
def job(do, spec):
    return do(do.client().create_job(spec))


@pytest.fixture
def held(do, suite, spec):
    suite.trainer.script = Script(hold_at=5)
    return do(do.client().create_job(spec))


def seqs(events):
    return [event.seq for event in events]


def test_every_event_once_and_the_terminal_last(do, job):
    events = do.all(job.events())
    assert seqs(events) == ALL
    assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
    assert sum(event.HasField("terminal") for event in events) == 1


def test_from_the_middle(do, job):
    assert seqs(do.all(job.events(after_seq=7))) == ALL[7:]
    assert do.all(job.events(after_seq=19)) == []


@pytest.mark.parametrize("stop", [1, 10, 13, 19])
def test_a_stored_cursor_goes_on_exactly_there(do, job, stop):
    first = job.events()
    assert seqs(do.all(first, stop)) == ALL[:stop]
    assert job.cursor == first.cursor
    do(first.close())
    again = do.client().job(job.name)
    assert seqs(do.all(again.events(cursor=first.cursor))) == ALL[stop:]


def test_filters(do, spec):
    job = do(do.client().create_job(spec | {"evaluation": {"split_fraction": 0.1}}))
    steps = do.all(job.events(kinds=["step_metrics", event_pb2.EVENT_KIND_EVAL_METRICS]))
    assert {event.kind for event in steps} == {event_pb2.EVENT_KIND_STEP_METRICS, event_pb2.EVENT_KIND_EVAL_METRICS}
    assert len(steps) == 11
    assert do.all(job.events(min_level="error")) == []
    assert all(event.level >= event_pb2.EVENT_LEVEL_INFO for event in do.all(job.events(min_level="info")))
    with pytest.raises(finetree.InvalidArgument, match="known are state_changed"):
        job.events(kinds=["steps"])


def test_from_a_time_or_now_at_a_rate(do, suite, spec):
    suite.trainer.script = Script(steps=10, step_seconds=1)
    job = do(do.client().create_job(spec))
    suite.clock.advance("1h")
    events = do.all(job.events(min_interval=0.01))
    moment = events[9].event_time
    late = do.all(job.events(after_time=moment.ToDatetime()))
    assert late == [event for event in events if event.event_time.ToNanoseconds() > moment.ToNanoseconds()]
    assert 0 < len(late) < len(events)
    assert do.all(job.events(now=True)) == []
    suite.trainer.script = Script(steps=40, step_seconds=0.1)
    many = do(do.client().create_job(spec))
    suite.clock.advance("1h")
    suite.disconnect_after(20)
    steps = [event for event in do.all(many.events(max_step_events_per_second=2)) if event.HasField("step_metrics")]
    assert 8 <= len(steps) <= 9  # one more where the stream was attached again
    assert suite.trainer.attached >= 2
    with pytest.raises(finetree.InvalidArgument, match="give one of after_seq, cursor, after_time, now"):
        job.events(after_seq=1, now=True)


def test_live_events_arrive_as_they_are_stored(do, suite, held):
    stream = held.events()
    assert seqs(do.all(stream, 5)) == [1, 2, 3, 4, 5]
    suite.trainer.advance(held.name, 2)
    assert seqs(do.all(stream, 2)) == [6, 7]
    suite.trainer.advance(held.name)
    assert seqs(do.all(stream)) == ALL[7:]


def test_a_broken_stream_goes_on_where_it_was(do, suite, job):
    suite.trainer.disconnect_after(1, 2, 7, 10, 18)
    assert seqs(do.all(job.events())) == ALL
    assert suite.trainer.attached == 6


@pytest.mark.parametrize("missing", [1, 9, 10, 19])
def test_a_hole_is_asked_for_again(do, suite, job, missing):
    suite.trainer.skip_once(missing)
    assert seqs(do.all(job.events())) == ALL
    assert suite.trainer.attached == 2


def test_silence_ends_with_another_attempt(do, suite, held):
    stream = held.events(heartbeat=0.1)
    assert seqs(do.all(stream, 5)) == [1, 2, 3, 4, 5]
    suite.trainer.silence()
    timer = threading.Timer(0.6, lambda: (suite.trainer.silence(silent=False), suite.trainer.advance(held.name)))
    timer.start()
    assert seqs(do.all(stream)) == ALL[5:]
    timer.join()
    assert suite.trainer.attached >= 2


def test_heartbeats_keep_a_quiet_stream(do, suite, held):
    stream = held.events(heartbeat=0.1)
    do.all(stream, 5)
    timer = threading.Timer(0.8, lambda: suite.trainer.advance(held.name))
    timer.start()
    assert seqs(do.all(stream)) == ALL[5:]
    timer.join()
    assert suite.trainer.attached == 1


def test_a_timeout_bounds_it(do, held):
    with pytest.raises(finetree.FinetreeTimeout):
        do.all(held.events(timeout=0.3))


def test_a_service_that_stays_away_ends_it_with_the_last_error(do, suite, held):
    stream = do.client(reconnect_timeout=0.4).job(held.name).events()
    do.all(stream, 5)
    suite.stop()
    with pytest.raises(finetree.Unavailable) as caught:
        do.all(stream)
    assert "nothing listens" in str(caught.value)


def test_full_services_are_asked_again_when_they_say_so(do, suite, job):
    full = finetree.ResourceExhausted("too many watchers", reason="TOO_MANY_WATCHERS", retry_after=0.05)
    suite.faults.fail_next("WatchJob", full, times=2)
    assert seqs(do.all(job.events())) == ALL


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"after_seq": 99}, finetree.OutOfRange, "FUTURE_SEQ"),
        ({"cursor": "nonsense"}, finetree.InvalidArgument, "CURSOR_INVALID"),
    ],
)
def test_positions_that_do_not_exist(do, job, options, error, reason):
    with pytest.raises(error) as caught:
        do.all(job.events(**options))
    assert caught.value.reason == reason


def test_a_restored_log_refuses_old_cursors(do, suite, job):
    stream = job.events()
    do.all(stream, 12)
    suite.trainer.reset_log()
    with pytest.raises(finetree.FailedPrecondition) as caught:
        do.all(job.events(cursor=stream.cursor))
    assert caught.value.reason == "LOG_RESET"


def test_unknown_kinds_and_payloads_move_the_cursor(do, job, suite):
    log = suite.trainer.find(job.name).log
    log[6].MergeFrom(event_pb2.JobEvent.FromString(b"\x38\x8f\x4e\xea\x3f\x01x"))
    log[6].ClearField("step_metrics")
    events = do.all(job.events())
    assert seqs(events) == ALL
    assert (events[6].kind, events[6].WhichOneof("payload")) == (9999, None)


def test_closing_ends_the_iteration(do, held):
    stream = held.events()
    do.all(stream, 5)
    do(stream.close())
    do(stream.close())
    assert do.all(stream) == []


def test_threads_that_share_a_stream_get_each_event_once(suite, spec):
    with suite.client() as client, ThreadPoolExecutor(4) as threads:
        stream = client.create_job(spec).events()
        found = list(threads.map(list, [stream] * 4, timeout=60))
    assert sorted(event.seq for events in found for event in events) == ALL


def test_closing_ends_what_threads_wait_for(suite, spec):
    suite.trainer.script = Script(hold_at=5)
    found: Queue[int] = Queue()

    def read(stream) -> None:
        for event in stream:
            found.put(event.seq)

    with suite.client() as client, ThreadPoolExecutor(2) as threads:
        stream = client.create_job(spec).events()
        reading = [threads.submit(read, stream) for _ in range(2)]
        assert sorted(found.get(timeout=60) for _ in range(5)) == ALL[:5]
        stream.close()
        for each in reading:
            each.result(timeout=60)
    assert found.empty()


async def test_tasks_that_share_a_stream_get_each_event_once(suite, spec):
    async def read(stream) -> list[int]:
        return [event.seq async for event in stream]

    async with suite.async_client() as client:
        stream = (await client.create_job(spec)).events()
        found = await asyncio.gather(*(read(stream) for _ in range(4)))
    assert sorted(seq for seqs in found for seq in seqs) == ALL


@pytest.mark.parametrize("stop", [1, 10])
def test_the_trainer_takes_a_cursor_of_the_sdk(suite, spec, stop):
    with suite.client() as client:
        job = client.create_job(spec)
        job.wait()
        stream = job.events()
        for _, _event in zip(range(stop), stream, strict=False):
            pass
        request = event_log_pb2.WatchJobRequest(name=job.name, cursor=stream.cursor)
        rest = [event.seq for batch in client.raw.trainer.WatchJob(request, timeout=60) for event in batch.events]
    assert rest == ALL[stop:]


def test_no_job(do):
    with pytest.raises(finetree.NotFound):
        do.all(do.client().job("nothing").events())
