# SPDX-License-Identifier: Apache-2.0
"""Results of the demo as text: what each figure is of."""

from pathlib import Path

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import artifact_pb2, capacity_pb2, event_pb2
from finetree_cli.demo.report import Outcome, show_outcome
from finetree_cli.output import Output


def outcome(**summary: float) -> Outcome:
    found = Outcome(
        "jobs/j", recommendation_pb2.RecommendResponse(), estimate_pb2.Estimate(), capacity_pb2.GetCapacityResponse(), 9
    )
    found.terminal.summary.CopyFrom(event_pb2.RunSummary(exact_match_after=1, first_loss=7.5, final_loss=0.25))
    for name, value in summary.items():
        setattr(found.terminal.summary, name, value)
    return found


@pytest.mark.parametrize(
    ("steps", "label"),
    [(360, "loss (after: mean of the last 10 steps)"), (4, "loss (after: mean of the last 4 steps)"), (1, "loss")],
)
def test_the_final_loss_is_called_the_mean_that_it_is(capsys, steps, label):
    show_outcome(Output(), outcome(steps=steps))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("loss")]
    assert [part.strip() for part in line.split("   ") if part.strip()] == [label, "7.500", "0.250"]


def test_who_would_chat_is_told_to_start_the_services_again(capsys):
    found = outcome(steps=1)
    found.artifacts, found.data_dir = [artifact_pb2.Artifact(name="jobs/j/artifacts/a")], Path("/my data/demo")
    show_outcome(Output(), found)
    assert capsys.readouterr().out.splitlines()[-1].endswith(": finetree up --data-dir '/my data/demo'")
