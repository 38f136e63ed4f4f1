# SPDX-License-Identifier: Apache-2.0
"""Live views: lines where nothing can be overwritten, one line that changes on a terminal."""

import io

import pytest
from finetree.display import watch
from finetree.display.watch import LineView, LiveJob, TerminalView, live_view
from finetree_api.trainer.v1 import event_pb2, job_pb2


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def step(number, total=100):
    metrics = event_pb2.StepMetrics(step=number, total_steps=total, loss=3.0 / number, tokens_per_second=800)
    return event_pb2.JobEvent(seq=number, state=job_pb2.JOB_STATE_RUNNING, step_metrics=metrics)


def test_lines_have_the_first_and_the_last_step_and_every_other_event():
    stream = io.StringIO()
    view = LineView(stream, every=3600)
    for number in range(1, 101):
        view.show(step(number))
    view.show(event_pb2.JobEvent(message="sa\x1b[2Jved\n", checkpoint_saved=event_pb2.CheckpointSaved(step=100)))
    view.finish(None)
    assert stream.getvalue().splitlines() == [
        "step 1/100  loss 3.000  800 tokens/s",
        "step 100/100  loss 0.030  800 tokens/s",
        "sa\N{REPLACEMENT CHARACTER}[2Jved ",
    ]


def test_a_terminal_has_one_line_that_changes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    view = TerminalView(stream)
    view.show(step(1))
    view.show(step(50))
    view.show(event_pb2.JobEvent(message="saved", checkpoint_saved=event_pb2.CheckpointSaved(step=50)))
    assert stream.getvalue().count("\n") == 1
    newest = stream.getvalue().rpartition("\r\x1b[K")[2]
    assert newest == "━━━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌ 50/100  loss 0.060  800 tokens/s"
    view.finish(None)
    assert stream.getvalue().endswith("\n"), "an interrupted watch leaves the prompt on a line of its own"


@pytest.mark.parametrize(
    ("stream", "variables", "kind"),
    [
        (Terminal(), {}, TerminalView),
        (Terminal(), {"CI": "true"}, LineView),
        (Terminal(), {"TERM": "dumb"}, LineView),
        (io.StringIO(), {}, LineView),
    ],
    ids=["terminal", "build", "dumb", "file"],
)
def test_which_view(monkeypatch, stream, variables, kind):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert type(live_view("j", None, stream)) is kind


def test_events_alone_tell_what_the_job_is():
    live = LiveJob("projects/p/jobs/1", None)
    queued = event_pb2.QueueChanged(position=2, blocked_by="projects/p/jobs/0")
    live.follow(event_pb2.JobEvent(state=job_pb2.JOB_STATE_QUEUED, queue_changed=queued, message="2nd in the queue"))
    assert (live.job.queue_position, live.job.blocked_by) == (2, "projects/p/jobs/0")
    for number in range(1, 5):
        live.follow(step(number, 4))
    live.follow(event_pb2.JobEvent(eval_metrics=event_pb2.EvalMetrics(step=4, loss=0.7, exact_match=0.9)))
    end = event_pb2.Terminal(state=job_pb2.JOB_STATE_SUCCEEDED)
    live.follow(event_pb2.JobEvent(state=job_pb2.JOB_STATE_SUCCEEDED, terminal=end, message="it has succeeded"))
    job = live.job
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert (job.progress.step, job.progress.total_steps, job.progress.fraction) == (4, 4, 1.0)
    assert (job.metrics.loss, job.metrics.eval_loss, job.metrics.exact_match) == (0.75, 0.7, 0.9)
    assert live.curve == [3.0, 1.5, 1.0, 0.75]
    assert live.newest == [
        "2nd in the queue",
        "evaluation at step 4 on 0 rows  loss 0.700  exact match 90.0%",
        "it has succeeded",
    ]


def test_a_curve_of_any_length_keeps_its_shape_and_few_points():
    live = LiveJob("j", None)
    for number in range(1, 10_001):
        live.follow(step(number, 10_000))
    assert watch.MOST_POINTS / 2 <= len(live.curve) <= watch.MOST_POINTS
    assert live.curve == sorted(live.curve, reverse=True)
    assert live.curve[-1] == pytest.approx(3e-4, rel=0.02)
