# SPDX-License-Identifier: Apache-2.0
"""Curves of losses as dots: where they lie, and how much is kept."""

from finetree_api.trainer.v1 import event_pb2
from finetree_cli.render.chart.curve import BRAILLE, EVALUATION, LABEL, MOST_POINTS, TRAINING, LossCurve, Series


def step(number: int, loss: float) -> event_pb2.JobEvent:
    return event_pb2.JobEvent(step_metrics=event_pb2.StepMetrics(step=number, loss=loss))


def evaluation(number: int, loss: float) -> event_pb2.JobEvent:
    return event_pb2.JobEvent(eval_metrics=event_pb2.EvalMetrics(step=number, loss=loss))


def drawn(curve: LossCurve, width: int, height: int) -> list[str]:
    lines = str(curve.text(width, height)).split("\n")
    assert len(lines) == height + 1
    assert all(len(line) == width for line in lines[:-1])
    return lines


def test_a_falling_loss_falls_from_the_first_corner_to_the_last():
    curve = LossCurve()
    for number in range(1, 101):
        curve.add(step(number, 4.0 - number / 50))
    lines = drawn(curve, 60, 8)
    cells = [[ord(cell) - BRAILLE if cell != " " else 0 for cell in line[LABEL + 1 :]] for line in lines[:-1]]
    assert cells[0][0]
    assert cells[-1][-1]
    assert not cells[-1][0]
    assert not cells[0][-1]
    heights = [min(row for row in range(8) if cells[row][column]) for column in range(51)]
    assert heights == sorted(heights)
    assert lines[0].startswith("   3.980 ")
    assert lines[7].startswith("   2.000 ")
    assert lines[-1].strip() == "step 1 to 100   loss 2.000"


def test_both_curves_have_their_colors_and_names():
    curve = LossCurve()
    for number in range(1, 21):
        curve.add(step(number, 2.0))
    curve.add(evaluation(10, 3.0))
    curve.add(evaluation(20, 1.0))
    text = curve.text(50, 6)
    assert {str(span.style) for span in text.spans} >= {TRAINING, EVALUATION}
    assert "loss 2.000   evaluation loss 1.000" in str(text)


def test_one_point_or_a_loss_that_is_not_finite_is_no_curve():
    curve = LossCurve()
    curve.add(event_pb2.JobEvent(step_metrics=event_pb2.StepMetrics(step=1, non_finite=True)))
    curve.add(step(2, 1.0))
    assert not curve.drawable
    curve.add(step(3, 1.0))
    assert drawn(curve, 40, 4)


def test_a_long_run_takes_no_more_memory_and_a_later_attempt_replaces_its_steps():
    series = Series()
    for number in range(1, 100_001):
        series.add(number, float(number))
    assert len(series.points) <= MOST_POINTS
    first, mean = series.means()[-1]
    assert first <= mean <= 100_000
    series.add(50_000, 1.0)
    assert max(first for first, _ in series.means()) <= 50_000
