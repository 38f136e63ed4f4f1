# SPDX-License-Identifier: Apache-2.0
"""What the metrics know of jobs that have not ended, also after a restart of the service."""

from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_trainer.telemetry.live_jobs import LiveJobs, note_progress, state_name, task_name

SECOND = 1_000_000


def running(new_row, uid="j1"):
    snapshot = job_pb2.Job()
    snapshot.progress.step, snapshot.progress.total_steps = 40, 100
    snapshot.metrics.tokens_per_second = 250.0
    record = job_pb2.Job(uid=uid)
    record.train.spec.lora.SetInParent()
    record.estimate.total_seconds.expected = 60.0
    fields = {
        "state": job_pb2.JOB_STATE_RUNNING,
        "attempt": 1,
        "attempt_started": 5 * SECOND,
        "update_time": 9 * SECOND,
        "snapshot": snapshot.SerializeToString(),
        "record": record.SerializeToString(),
    }
    return new_row(uid, **fields)


def test_a_restart_finds_how_far_jobs_are(new_row):
    jobs = LiveJobs()
    jobs.recover([running(new_row)])
    job = jobs["j1"]
    assert (job.state_name, job.method, job.step, job.total_steps) == ("running", "lora", 40, 100)
    assert job.tokens_per_second == 250.0
    assert (job.heard, job.saved) == (9 * SECOND, 5 * SECOND)
    assert job.estimate.total_seconds.expected == 60.0


def test_a_job_waits_while_it_is_queued_and_not_suspended(new_row):
    jobs = LiveJobs()
    jobs.follow(new_row(state=job_pb2.JOB_STATE_QUEUED, update_time=3))
    jobs.follow(new_row(state=job_pb2.JOB_STATE_QUEUED, update_time=7))
    assert jobs["j1"].waiting_since == 3
    jobs.follow(new_row(state=job_pb2.JOB_STATE_QUEUED, update_time=8, suspended=True))
    assert (jobs["j1"].waiting_since, jobs["j1"].state_name) == (0, "suspended")
    jobs.follow(new_row(state=job_pb2.JOB_STATE_QUEUED, update_time=9))
    assert jobs["j1"].waiting_since == 9
    jobs.follow(new_row(state=job_pb2.JOB_STATE_CANCELLED))
    assert jobs == {}


def test_a_line_of_a_library_is_no_progress(new_row):
    jobs = LiveJobs()
    job = jobs.of(running(new_row))
    for seconds, payload in (
        (10, {"step_metrics": event_pb2.StepMetrics(step=41, total_steps=100, processed_tokens=7)}),
        (20, {"checkpoint_saved": event_pb2.CheckpointSaved(step=41)}),
        (30, {"log_line": event_pb2.LogLine(text="still here")}),
        (40, {"alert": event_pb2.Alert(code="SLOW")}),
    ):
        event = event_pb2.JobEvent(**payload)
        event.event_time.FromMicroseconds(seconds * SECOND)
        note_progress(job, event)
    assert (job.step, job.heard, job.saved) == (41, 20 * SECOND, 20 * SECOND)


def test_every_state_and_task_has_a_name_in_metrics():
    assert state_name(job_pb2.JOB_STATE_RECOVERING) == "recovering"
    assert task_name(job_pb2.TASK_KIND_SERVE) == "serve"
