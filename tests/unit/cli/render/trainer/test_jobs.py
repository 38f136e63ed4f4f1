# SPDX-License-Identifier: Apache-2.0
"""Jobs and plans as text."""

from finetree_api.trainer.v1 import trainer_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2
from finetree_cli.output import Output
from finetree_cli.render.trainer.jobs import show_plan


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
