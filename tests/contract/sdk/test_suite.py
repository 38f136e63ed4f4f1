# SPDX-License-Identifier: Apache-2.0
"""The fake suite's own promises: a clock that a test moves, failures on request, records of real logs played again."""

import time
from itertools import pairwise

import finetree
import pytest
from finetree.joblog import read_log, write_log
from finetree.testing import Clock, Replay, Script, Suite
from finetree_api.trainer.v1 import event_pb2, job_pb2

ALL = list(range(1, 20))


def seqs(events):
    return [event.seq for event in events]


def test_events_come_as_the_clock_moves_and_carry_its_time(do, suite, spec):
    suite.trainer.script = Script(steps=10, step_seconds=60)
    job = do(do.client().create_job(spec))
    assert do(job.refresh()).progress.step == 0
    suite.clock.advance("3m")
    assert do(job.refresh()).progress.step == 3
    suite.clock.advance("2h")
    events = do.all(job.events())
    assert seqs(events) == ALL
    steps = [event for event in events if event.HasField("step_metrics")]
    first, last = steps[0].event_time.ToMicroseconds(), steps[-1].event_time.ToMicroseconds()
    assert last - first == 9 * 60 * 10**6
    assert steps[-1].elapsed.ToSeconds() == 600
    done = do(job.refresh())
    assert done.state == job_pb2.JOB_STATE_SUCCEEDED
    assert done.end_time.ToSeconds() - done.start_time.ToSeconds() == 600


def test_a_stream_that_is_open_gets_what_the_clock_brings(do, suite, spec):
    suite.trainer.script = Script(steps=10, step_seconds=60)
    stream = do(do.client().create_job(spec)).events()
    assert seqs(do.all(stream, 6)) == ALL[:6]
    suite.clock.advance("1m")
    assert seqs(do.all(stream, 1)) == [7]
    suite.clock.advance("1h")
    assert seqs(do.all(stream)) == ALL[7:]


@pytest.mark.parametrize("limit", [{"limits": {"max_duration": "90s"}}, {"deadline": "2026-01-01T00:01:30Z"}], ids=str)
def test_limits_of_time_are_the_clocks(do, suite, spec, limit):
    suite.trainer.script = Script(steps=10, step_seconds=60)
    job = do(do.client().create_job({"train": {"spec": spec}} | limit))
    suite.clock.advance("1h")
    ended = do(job.wait(timeout=60))
    assert (ended.state, ended.progress.step) == (job_pb2.JOB_STATE_CANCELLED, 1)
    assert ended.end_time.ToJsonString() == "2026-01-01T00:01:30Z"


def test_a_heartbeat_comes_when_the_clock_says_so(suite, spec):
    from finetree_api.trainer.v1 import event_log_pb2

    suite.trainer.script = Script(hold_at=3)
    with suite.client() as client:
        job = client.create_job(spec)
        request = event_log_pb2.WatchJobRequest(name=job.name, after_seq=3, heartbeat={"seconds": 60})
        call = client.raw.trainer.WatchJob(request, timeout=60)
        suite.trainer.attached_at_least(1)
        before = suite.clock.now()
        suite.clock.advance("5m")
        beat = next(call)
        assert (list(beat.events), beat.last_seq) == ([], 3)
        assert (beat.server_time.ToSeconds() - before.timestamp()) == 300
        call.cancel()


def test_a_clock_may_run_by_itself():
    with Suite(clock=Clock(speed=3600)) as suite, suite.client() as client:
        suite.trainer.script = Script(steps=3, step_seconds=60)
        data = suite.datasets.add([{"text": "a"}])
        started = time.monotonic()
        job = client.train({"model": {"name": "tiny"}, "lora": {}, "dataset": {"name": data.name}})
        assert len(list(job.events())) == 12
        assert time.monotonic() - started < 60  # of 180 on that clock
        suite.clock.speed = 0.0
        assert suite.clock.micros() == suite.clock.micros()


def test_time_never_goes_back(suite):
    with pytest.raises(ValueError, match="never goes back"):
        suite.clock.advance(-1)
    with pytest.raises(ValueError, match="duration such as"):
        suite.clock.advance("soon")


def test_the_next_calls_fail_as_they_are_told(do, suite, spec):
    client = do.client()
    suite.fail_next("CreateJob", "RESOURCE_EXHAUSTED", reason="QUEUE_FULL", retry_after=30.0)
    with pytest.raises(finetree.ResourceExhausted) as caught:
        do(client.create_job(spec))
    assert (caught.value.reason, caught.value.retry_after) == ("QUEUE_FULL", 30.0)
    suite.fail_next("CreateJob", reason="SERVER_STOPPING", times=2)
    assert do(client.create_job(spec)).name, "the SDK tries again"
    assert len(suite.faults.calls("CreateJob")) == 4
    suite.fail_next("CreateJob", finetree.PlanDrift("drifted", reason="PLAN_DRIFT"))
    with pytest.raises(finetree.PlanDrift):
        do(client.create_job(spec))


@pytest.mark.parametrize(("rpc", "code"), [("CreateJobs", "UNAVAILABLE"), ("CreateJob", "TEAPOT")])
def test_a_failure_that_there_is_not_is_refused(suite, rpc, code):
    with pytest.raises(ValueError, match=r"expected (an rpc|a code) such as"):
        suite.fail_next(rpc, code)


def test_a_latency_is_the_clocks(do, suite):
    client = do.client()
    suite.delay_next("ListMethods", "5s")
    with pytest.raises(finetree.FinetreeTimeout):
        do(client.list_methods(timeout=0.2))
    suite.clock.speed = 100.0
    suite.delay_next("ListMethods", "5s")
    started = suite.clock.micros()
    assert len(do(client.list_methods(timeout=30))) == 5
    assert suite.clock.micros() - started >= 5_000_000


def test_a_cut_stream_loses_and_repeats_nothing(do, suite, spec):
    suite.disconnect_after(1, 7, 18)
    assert seqs(do.all(do(do.client().create_job(spec)).events())) == ALL
    assert suite.trainer.attached == 4


def test_a_service_that_goes_away_comes_back_on_its_address(do, suite, spec):
    suite.trainer.script = Script(hold_at=5)
    client = do.client()
    job = do(client.create_job(spec))
    stream = job.events()
    assert seqs(do.all(stream, 5)) == ALL[:5]
    address = suite.address
    suite.stop()
    with pytest.raises(finetree.Unavailable):
        do(do.client(retries=False).list_methods())
    suite.start()
    assert suite.address == address
    suite.trainer.advance(job.name)
    assert seqs(do.all(stream)) == ALL[5:]


def test_two_suites_have_the_same_ids_and_times():
    def made() -> list[bytes]:
        with Suite() as suite, suite.client() as client:
            data = suite.datasets.add([{"text": "a"}])
            job = client.train({"model": {"name": "tiny"}, "lora": {}, "dataset": {"name": data.name}}, request_id="r")
            return [event.SerializeToString(deterministic=True) for event in job.events()]

    assert made() == made()


def test_what_a_fake_cannot_promise_is_unimplemented(do, suite, spec):
    client = do.client()
    large = {"model": {"name": "llama-3.1-70b"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}}
    with pytest.raises(finetree.Unimplemented, match="the fake suite searches no remedies") as caught:
        do(client.estimate(large | {"dataset": {"profile": {"examples": 9}}}, view="FULL"))
    assert caught.value.reason == "NOT_IN_FAKE_SUITE"
    with pytest.raises(finetree.Unimplemented, match="the fake suite reads JSON lines alone"):
        do(client.upload_dataset(b"prompt,completion\na,b\n"))
    with pytest.raises(finetree.Unimplemented, match="has no answer to ListJobLogs") as caught:
        do(do(client.create_job(spec)).list_logs())
    assert caught.value.reason == "NOT_IN_FAKE_SUITE"
    with pytest.raises(finetree.Unimplemented, match="starts no run from trained weights"):
        do(client.train(spec, init_from="./an-adapter"))
    with pytest.raises(finetree.Unimplemented, match="finds Answer, Body"):
        do(client.upload_dataset(b'{"Body": "b", "Answer": "a"}\n'))


def test_a_recorded_log_plays_again_with_the_same_bytes(do, suite, spec, tmp_path):
    suite.trainer.script = Script(steps=5, step_seconds=60)
    job = do(do.client().create_job(spec))
    suite.clock.advance("1h")
    recorded = do.all(job.events())
    file = tmp_path / "run.jsonl"
    assert write_log(file, do(job.refresh()), recorded) == len(recorded)
    with Suite(replay=file) as played, played.client() as client:
        handle = client.job(played.replayed)
        played.disconnect_after(3, 9)
        assert list(handle.events()) == recorded
        assert played.trainer.attached == 3
        again = handle.refresh()
        assert (again.state, again.progress.step) == (job_pb2.JOB_STATE_SUCCEEDED, 5)
        with pytest.raises(finetree.Unimplemented, match="no files of a recorded log"):
            handle.download(tmp_path)


def test_a_replay_moves_with_the_clock_and_drives_new_jobs(do, suite, spec, tmp_path):
    suite.trainer.script = Script(steps=5, step_seconds=60)
    job = do(do.client().create_job(spec))
    suite.clock.advance("1h")
    recorded = do.all(job.events())
    write_log(tmp_path / "run.jsonl", do(job.refresh()), recorded)
    with Suite(replay=Replay.of(tmp_path / "run.jsonl", at_once=False)) as played, played.client() as client:
        handle = client.job(played.replayed)
        assert handle.refresh().progress.step == 0
        played.clock.advance("2m")
        assert handle.refresh().progress.step == 2
        played.clock.advance("1d")
        assert list(handle.events()) == recorded
        data = played.datasets.add([{"text": "a"}])
        new = client.train({"model": {"name": "small"}, "lora": {}, "dataset": {"name": data.name}})
        played.clock.advance("1h")
        events = list(new.events())
    assert [without_names(event) for event in events] == [without_names(event) for event in recorded]
    assert {event.job for event in events} == {new.name}
    gaps = [
        [b.event_time.ToMicroseconds() - a.event_time.ToMicroseconds() for a, b in pairwise(log)]
        for log in (events, recorded)
    ]
    assert gaps[0] == gaps[1]


def without_names(event: event_pb2.JobEvent) -> event_pb2.JobEvent:
    """An event without what must differ in another job."""
    kept = event_pb2.JobEvent()
    kept.CopyFrom(event)
    for name in ("job", "job_uid", "event_time"):
        kept.ClearField(name)
    if kept.HasField("artifact_ready"):
        kept.artifact_ready.artifact.name = kept.artifact_ready.artifact.name.rpartition("/")[2]
    return kept


def test_a_record_says_what_is_wrong_with_it(tmp_path):
    file = tmp_path / "run.jsonl"
    for text, said in (
        ("", "the file is empty"),
        ("{", "line 1: is not JSON; was the file cut"),
        ('{"format": "other"}\n', "line 1: expected"),
        (
            '{"format": "finetree-job-log/1", "job": {}}\n{"event": {"seq": 1}}\n{"event": {"seq": 3}}\n',
            "events are missing",
        ),
        ('{"format": "finetree-job-log/1", "job": {}}\n{"event": {"sequence": 1}}\n', "line 2: "),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(finetree.InvalidArgument, match=said) as caught:
            read_log(file)
        assert (caught.value.reason, str(tmp_path) in str(caught.value)) == ("JOB_LOG_INVALID", False)


def test_what_json_does_not_hold_is_kept_beside_it(tmp_path):
    newer = event_pb2.JobEvent.FromString(b"\x18\x01\x38\x8f\x4e\xea\x3f\x01x")
    write_log(tmp_path / "run.jsonl", job_pb2.Job(name="projects/p/jobs/1"), [newer])
    (event,) = read_log(tmp_path / "run.jsonl").events
    assert event.SerializeToString(deterministic=True) == newer.SerializeToString(deterministic=True)
