# SPDX-License-Identifier: Apache-2.0
"""An overview as events change it, on a terminal that has room for curves and on one that has none."""

import io

from finetree_api.trainer.v1 import capacity_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_cli.backends.overview import ENDED, POINTS, Overview
from finetree_cli.render.trainer.overview import document, screen
from rich.console import Console

NAME = "projects/default/jobs/1"


def running() -> Overview:
    device = capacity_pb2.Device(id="cuda:0", display_name="H", total_bytes=100, free_bytes=25, slots=1)
    node = capacity_pb2.Node(name="here", devices=[device])
    job = job_pb2.Job(name=NAME, display_name="mine", train=job_pb2.TrainTask(), state=job_pb2.JOB_STATE_RUNNING)
    return Overview(capacity_pb2.GetCapacityResponse(nodes=[node]), {NAME: job})


def step(number: int, loss: float = 1.0) -> event_pb2.JobEvent:
    metrics = event_pb2.StepMetrics(step=number, total_steps=1000, loss=loss, tokens_per_second=512)
    metrics.eta_seconds.CopyFrom(evidence_pb2.Interval(low=50, expected=60, high=70))
    metrics.devices.add(node="here", device_id="cuda:0", utilization_percent=97)
    return event_pb2.JobEvent(job=NAME, step_metrics=metrics)


def text(found: Overview, *, height: int, width: int = 200) -> str:
    written = io.StringIO()
    Console(file=written, width=width, height=height, color_system=None).print(screen(found, width, height))
    return written.getvalue()


def test_steps_change_progress_speed_use_and_curve_without_a_call():
    found = running()
    for number in range(1, 501):
        assert not found.take(step(number, 4.0 - number / 200))
    assert not found.take(event_pb2.JobEvent(job=NAME, eval_metrics=event_pb2.EvalMetrics(step=500, loss=2.5)))
    shown = text(found, height=60)
    for part in ("1 running, 0 waiting", "97%", "75%", "50%", "500/1000", "1.500", "2.500", "512", "1 min 0 s"):
        assert part in shown
    assert "step 1 to 500" in shown
    assert "step 1 to 500" not in text(found, height=15)
    narrow = text(found, height=15, width=90)
    for part in ("97%", "75%", "50%", "500/1000", "1.500", "2.500", "512", "1 min 0 s"):
        assert part in narrow
    # On a terminal that is narrower yet the rows are records: nothing is cut, and curves know their lines.
    found.jobs[NAME].state = job_pb2.JOB_STATE_RUNNING
    found.jobs[NAME].display_name = "a long name of many words"
    assert "step 1 to 500" in text(found, height=25, width=60)
    records = text(found, height=18, width=60)
    assert "step 1 to 500" not in records
    assert max(map(len, records.splitlines())) <= 60
    for part in (
        "97%",
        "75%",
        "Done 50%",
        "Step 500/1000",
        "Loss 1.500",
        "Eval loss 2.500",
        "Left 1 min 0 s",
        "many words",
    ):
        assert part in records
    curve = found.curves[NAME]["loss"]
    assert len(curve) <= POINTS * 4
    assert (curve[0][0], curve[-1]) == (1, (500, 1.5))
    assert not found.take(step(400, 3.0))  # another attempt goes on from a checkpoint
    assert found.curves[NAME]["loss"][-1] == (400, 3.0)


def test_a_new_state_or_a_new_job_has_its_job_asked_for():
    found = running()
    changed = event_pb2.StateChanged(current=job_pb2.JOB_STATE_SUCCEEDED)
    assert found.take(event_pb2.JobEvent(job=NAME, state_changed=changed))
    assert found.take(event_pb2.JobEvent(job="projects/default/jobs/2", step_metrics=event_pb2.StepMetrics(step=1)))
    waiting = event_pb2.QueueChanged(position=3, blocked_by="another job")
    assert not found.take(event_pb2.JobEvent(job=NAME, queue_changed=waiting))
    assert found.jobs[NAME].queue_position == 3


def test_only_the_newest_jobs_that_have_ended_are_kept():
    found = running()
    for number in range(2, 12):
        job = job_pb2.Job(name=f"projects/default/jobs/{number:02}", state=job_pb2.JOB_STATE_SUCCEEDED)
        job.end_time.GetCurrentTime()
        found.put(job)
    assert [name[-2:] for name in sorted(found.jobs) if name != NAME] == ["07", "08", "09", "10", "11"]
    assert len(found.jobs) == ENDED + 1


def test_a_job_on_several_devices_has_a_line_of_its_ranks_while_it_runs():
    found, event = running(), step(1)
    for rank in range(2):
        event.step_metrics.ranks.add(rank=rank, memory_bytes=2**30, compute_seconds=1.0)
    assert "ranks" not in document(found)
    found.take(event)
    assert "1  2 ranks, 1.00 GiB" in text(found, height=15)
    assert [rank.get("rank", 0) for rank in document(found)["ranks"][NAME]] == [0, 1]
    found.jobs[NAME].state = job_pb2.JOB_STATE_SUCCEEDED
    assert "2 ranks" not in text(found, height=15)
