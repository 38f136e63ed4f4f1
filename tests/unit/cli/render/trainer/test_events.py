# SPDX-License-Identifier: Apache-2.0
"""Events of a job as lines and as JSON."""

import json

from finetree_api.trainer.v1 import event_pb2
from finetree_cli.output import Output
from finetree_cli.render.trainer import events


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
