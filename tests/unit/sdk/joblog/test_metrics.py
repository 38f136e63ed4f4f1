# SPDX-License-Identifier: Apache-2.0
"""Curves keep every extreme, stay as they were, and follow the newest attempt."""

import random

import pytest
from finetree.joblog.metrics import UNITS, Curves, query_problem
from finetree_api.trainer.v1 import event_pb2, metrics_pb2


def steps_of(values, *, attempt=1, first=1):
    """Events of consecutive steps with these losses; None is a loss that was not finite."""
    for step, loss in enumerate(values, first):
        metrics = event_pb2.StepMetrics(step=step, learning_rate=1e-3, tokens_per_second=100.0)
        if loss is not None:
            metrics.loss = loss
        yield _event(attempt, step_metrics=metrics)


def evaluation(step, loss, *, attempt=1):
    return _event(attempt, eval_metrics=event_pb2.EvalMetrics(step=step, loss=loss))


def _event(attempt, **payload: object) -> event_pb2.JobEvent:
    event = event_pb2.JobEvent(attempt=attempt, **payload)
    kind = "STEP_METRICS" if event.HasField("step_metrics") else "EVAL_METRICS"
    event.kind = event_pb2.EventKind.Value(f"EVENT_KIND_{kind}")
    event.event_time.FromMicroseconds(1_000_000)
    return event


def curves_of(log, *names: str, first=0, last=0, limit=500):
    curves = Curves(names=names or ("loss",), first=first, last=last, limit=limit)
    for event in reversed(list(log)):
        if not curves.add(event):
            break
    return curves


def points(curves, name="loss"):
    return next((list(series.points) for series in curves.series() if series.name == name), [])


def test_few_steps_are_answered_one_by_one():
    found = points(curves_of(steps_of([3.0, 2.0, 2.5])))
    assert [(p.first_step, p.last_step, p.value, p.min, p.max, p.mean, p.count) for p in found] == [
        (1, 1, 3.0, 3.0, 3.0, 3.0, 1),
        (2, 2, 2.0, 2.0, 2.0, 2.0, 1),
        (3, 3, 2.5, 2.5, 2.5, 2.5, 1),
    ]


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_extremes_of_any_range_are_kept_in_at_most_so_many_points(limit):
    chance = random.Random(limit)
    losses = [None if chance.random() < 0.05 else chance.uniform(0, 5) for _ in range(1000)]
    log = list(steps_of(losses))
    for _ in range(30):
        first = chance.randint(1, 1000)
        last = chance.randint(first, 1000)
        curves = curves_of(log, first=first, last=last, limit=limit)
        found, wanted = points(curves), [loss for loss in losses[first - 1 : last] if loss is not None]
        assert len(found) <= limit
        assert sum(p.count for p in found) == len(wanted)
        if wanted:
            assert (min(p.min for p in found), max(p.max for p in found)) == (min(wanted), max(wanted))
        for point in found:
            of_point = [x for x in losses[point.first_step - 1 : point.last_step] if x is not None]
            assert (point.min, point.max, point.count) == (min(of_point), max(of_point), len(of_point))
            assert point.value == losses[point.last_step - 1]
            assert point.mean == pytest.approx(sum(of_point) / len(of_point))
            assert (point.first_step - 1) // curves.width == (point.last_step - 1) // curves.width


def test_older_points_change_only_when_the_width_doubles():
    chance = random.Random(3)
    losses = [chance.uniform(0, 5) for _ in range(400)]
    before = curves_of(steps_of(losses[:1]), limit=50)
    for count in range(2, 401):
        now = curves_of(steps_of(losses[:count]), limit=50)
        if now.width == before.width:
            assert points(now)[: len(points(before)) - 1] == points(before)[:-1]
        else:
            assert now.width == 2 * before.width
        before = now


def test_steps_that_a_later_attempt_computed_again_have_its_values():
    log = [*steps_of([5.0, 4.0, 3.0, 2.0, 1.0]), evaluation(2, 9.0), evaluation(5, 9.5)]
    log += [*steps_of([2.9, 1.9], attempt=2, first=3), evaluation(4, 8.0, attempt=2)]
    curves = curves_of(log, "loss", "eval_loss")
    assert [(p.last_step, p.value) for p in points(curves)] == [(1, 5.0), (2, 4.0), (3, 2.9), (4, 1.9)]
    assert [(p.last_step, p.value) for p in points(curves, "eval_loss")] == [(2, 9.0), (4, 8.0)]
    assert curves.newest == 4
    third = [*log, *steps_of([3.9], attempt=3, first=2)]
    assert [(p.last_step, p.value) for p in points(curves_of(third))] == [(1, 5.0), (2, 3.9)]


def test_the_base_models_evaluation_is_step_0():
    log = [evaluation(0, 7.0), *steps_of([3.0] * 10), evaluation(10, 2.0)]
    curves = curves_of(log, "eval_loss", limit=3)
    assert [(p.last_step, p.value) for p in points(curves, "eval_loss")] == [(0, 7.0), (10, 2.0)]
    assert [p.last_step for p in points(curves_of(log, "eval_loss", first=1), "eval_loss")] == [10]


def test_reading_stops_before_the_range():
    log = list(steps_of([1.0] * 100))
    curves = Curves(names=("loss",), first=90, last=0, limit=500)
    read = 0
    for event in reversed(log):
        read += 1
        if not curves.add(event):
            break
    assert read == 100 - 90 + 1 + 2
    assert len(points(curves)) == 11


def test_an_unknown_metric_is_refused_with_the_known_ones():
    asked = metrics_pb2.QueryMetricsRequest
    assert query_problem(asked()) is None
    assert Curves.of(asked()).names == tuple(sorted(UNITS))
    problem = query_problem(asked(metrics=["loss", "lose"]))
    assert problem is not None
    assert problem.field == "metrics[1]"
    assert "eval_loss" in problem.description
    problem = query_problem(asked(first_step=3, last_step=2))
    assert problem is not None
    assert problem.field == "last_step"
