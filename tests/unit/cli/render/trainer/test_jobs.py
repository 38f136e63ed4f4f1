# SPDX-License-Identifier: Apache-2.0
"""Jobs and plans as text."""

import time

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2
from finetree_cli.output import Output
from finetree_cli.render.trainer.jobs import show_end, show_job, show_plan


def test_a_run_without_hours_and_price_is_shown_without_them(capsys):
    """As of one that does not fit, or whose number of rows is unknown."""
    estimate = estimate_summary_pb2.EstimateSummary(device_bytes=evidence_pb2.Interval(low=1, expected=2, high=3))
    for seconds in (0, 60):
        if seconds:
            estimate.total_seconds.low = estimate.total_seconds.expected = estimate.total_seconds.high = seconds
        show_plan(Output(), trainer_pb2.ValidateJobResponse(estimate=estimate))
    without, timed = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  estimate"))
    assert "1 min" not in without
    assert without.count(",") == 0
    assert timed.startswith(f"{without}, 1 min")


@pytest.mark.parametrize(("begun", "contradicted"), [(10, False), (100_000, True)])
def test_a_running_job_says_what_remains_and_whether_that_is_more_than_was_estimated(capsys, begun, contradicted):
    job = job_pb2.Job(name="projects/default/jobs/1", state=job_pb2.JOB_STATE_RUNNING)
    for interval in (job.progress.eta_seconds, job.estimate.total_seconds):
        interval.low, interval.expected, interval.high = 60, 120, 3600
    job.start_time.FromSeconds(int(time.time()) - begun)
    show_job(Output(), job)
    (line,) = (each for each in capsys.readouterr().out.splitlines() if each.startswith("  forecast"))
    assert line.startswith("  forecast  2 min 0 s (1 min 0 s to 1 h 0 min) left")
    assert ("more than was estimated" in line) is contradicted


@pytest.mark.parametrize(
    ("steps", "note"), [(1, ""), (4, " (mean of the last 4)"), (180, " (mean of the last 10)")], ids=str
)
def test_a_final_loss_that_is_no_steps_own_is_called_a_mean(capsys, steps, note):
    show_end(Output(), event_pb2.RunSummary(first_loss=2.24, final_loss=0.125, steps=steps), [])
    assert capsys.readouterr().out.splitlines()[0] == f"loss         2.240 -> 0.125 in {steps} steps{note}"
