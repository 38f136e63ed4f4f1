# SPDX-License-Identifier: Apache-2.0
"""The course of a job, read backwards: what a later attempt repeats counts once, and evaluations find their place."""

import pytest
from finetree_api.trainer.v1 import comparison_pb2, event_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_trainer.jobs.compare.history import History, Wanted


def step(attempt, number, loss):
    metrics = event_pb2.StepMetrics(
        step=number, loss=loss, processed_tokens=10 * number, step_seconds=1, epoch=number / 4
    )
    return event_pb2.JobEvent(attempt=attempt, step_metrics=metrics)


def evaluation(attempt, number, loss):
    return event_pb2.JobEvent(attempt=attempt, eval_metrics=event_pb2.EvalMetrics(step=number, loss=loss))


def course(events, axis=comparison_pb2.CURVE_AXIS_STEP, last_steps=3):
    history = History(Wanted(metrics=("loss", "eval_loss"), axis=axis, points=100, last_steps=last_steps))
    for event in reversed(events):
        history.add(event)
    history.finish()
    return history


LOG = [
    evaluation(1, 0, 9.0),
    *(step(1, number, 5.0) for number in range(1, 5)),
    evaluation(1, 2, 8.0),
    evaluation(1, 4, 7.0),
    *(step(2, number, 1.0 + number) for number in range(3, 7)),
    evaluation(2, 6, 2.0),
]
"""The second attempt goes on from the checkpoint at step 2. The evaluation at step 2 came late: its step places it."""


def test_what_a_later_attempt_repeats_counts_once():
    history = course(LOG)
    points = list(history.curves["loss"].points())
    assert [(point.step, point.mean, point.count) for point in points] == [
        (1, 5.0, 1),
        (2, 5.0, 1),
        *((number, 1.0 + number, 1) for number in range(3, 7)),
    ]
    assert history.losses == [7.0, 6.0, 5.0]
    assert len(history.step_seconds) == 6
    assert [(each.step, each.loss) for each in history.evaluations] == [(6, 2.0), (2, 8.0), (0, 9.0)]


def test_rows_that_are_trained_on_too_are_counted_of_the_held_out_ones():
    reports = [
        event_pb2.DatasetReport(split=split, leaked=event_pb2.RowGroup(count=count))
        for split, count in ((training_data_pb2.SPLIT_TRAIN, 9), (training_data_pb2.SPLIT_EVALUATION, 4))
    ]
    assert course([event_pb2.JobEvent(attempt=1, dataset_report=report) for report in reports]).leaked == 4


@pytest.mark.parametrize(
    ("axis", "places"),
    [
        (comparison_pb2.CURVE_AXIS_STEP, [0, 2, 6]),
        (comparison_pb2.CURVE_AXIS_TOKENS, [0, 20, 60]),
        (comparison_pb2.CURVE_AXIS_EPOCH, [0, 0.5, 1.5]),
    ],
)
def test_evaluations_stand_where_their_step_does(axis, places):
    history = course(LOG, axis)
    found = [(point.position, point.mean) for point in history.curves["eval_loss"].points()]
    assert found == list(zip(places, (9.0, 8.0, 2.0), strict=True))
    assert history.spacing == pytest.approx(places[-1] / 6)
