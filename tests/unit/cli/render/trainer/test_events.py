# SPDX-License-Identifier: Apache-2.0
"""Events of a job as lines and as JSON."""

import io
import json

from finetree_api.trainer.v1 import event_pb2
from finetree_cli.output import Output
from finetree_cli.render.trainer import events
from rich.console import Console


def step(number: int, total: int = 100) -> event_pb2.JobEvent:
    metrics = event_pb2.StepMetrics(step=number, total_steps=total, loss=2.5, tokens_per_second=800)
    return event_pb2.JobEvent(seq=number, step_metrics=metrics)


def test_lines_leave_out_most_steps_and_nothing_else(capsys):
    with events.LineView(Output(), every=3600) as view:
        for number in range(1, 101):
            view.show(step(number))
        view.show(event_pb2.JobEvent(message="saved", checkpoint_saved=event_pb2.CheckpointSaved(step=100)))
        view.show(event_pb2.JobEvent())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "step 1/100  loss 2.500  800 tokens/s",
        "step 100/100  loss 2.500  800 tokens/s",
        "saved",
    ]


def test_json_lines_are_events_with_numbers(capsys):
    with events.JsonView(Output(json=True)) as view:
        view.show(step(7))
    line = json.loads(capsys.readouterr().out)
    assert line["seq"] == 7
    assert line["step_metrics"]["total_steps"] > 99


def test_a_terminal_shows_a_curve_above_the_bar_and_other_events_above_both(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, height=40, color_system=None, legacy_windows=False)
    monkeypatch.setattr(Output, "console", lambda _self, **_: terminal)
    with events.messages_view(Output()) as view:
        assert isinstance(view, events.BarView)
        for number in range(1, 31):
            view.show(step(number))
        evaluation = event_pb2.EvalMetrics(step=30, loss=1.25, examples=8)
        view.show(event_pb2.JobEvent(eval_metrics=evaluation))
        view.show(event_pb2.JobEvent(message="saved", checkpoint_saved=event_pb2.CheckpointSaved(step=30)))
    text = screen.getvalue()
    assert "step 1 to 30   loss 2.500   evaluation loss 1.250" in text
    assert any(0x2800 < ord(letter) < 0x2900 for letter in text)
    assert "30/100" in text
    assert "saved" in text
