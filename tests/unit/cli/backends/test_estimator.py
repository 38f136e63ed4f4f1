# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN002, ANN003 - the methods are as the SDK has them
"""Many plans are checked by concurrent calls, and answered in order."""

import threading

import pytest
from finetree import NotFound
from finetree_api.estimator.v1 import check_plan_pb2
from finetree_cli.backends.estimator import check_plans


class Server:
    """A client of a server that answers with the number of runs that a month has."""

    def check_plan(self, run, _policy, **_):
        if not run.runs_per_month:
            raise NotFound("no such model")
        return check_plan_pb2.CheckPlanResponse(no_remedy=str(run.runs_per_month))


def request(number):
    made = check_plan_pb2.CheckPlanRequest()
    made.run.runs_per_month = number
    return made


def test_answers_come_in_order_and_a_refusal_takes_its_place():
    first, refused, last = check_plans(Server(), [request(1), request(0), request(2)])
    assert [first.no_remedy, last.no_remedy] == ["1.0", "2.0"]
    assert isinstance(refused, NotFound)


def test_a_reader_that_stops_early_leaves_no_threads():
    before = set(threading.enumerate())
    answers = check_plans(Server(), [request(number + 1) for number in range(30)])
    assert next(answers).no_remedy == "1.0"
    assert set(threading.enumerate()) <= before


def test_an_error_of_another_kind_is_not_an_answer():
    class Broken:
        def check_plan(self, *_, **__) -> None:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        list(check_plans(Broken(), [request(1)]))
