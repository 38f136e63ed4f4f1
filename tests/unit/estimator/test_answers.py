# SPDX-License-Identifier: Apache-2.0
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_estimator.answers import Answers, key_of


def request(rows: int) -> pb.EstimateRunRequest:
    return pb.EstimateRunRequest(dataset_profile={"examples": rows})


def test_the_one_not_asked_for_the_longest_goes_first():
    answers = Answers(most=2)
    keys = [key_of(request(rows)) for rows in (1, 2, 3)]
    answers.keep(keys[0], pb.Estimate(optimizer_steps=1))
    answers.keep(keys[1], pb.Estimate(optimizer_steps=2))
    assert answers.find(keys[0]).optimizer_steps == 1
    answers.keep(keys[2], pb.Estimate(optimizer_steps=3))

    assert answers.find(keys[1]) is None
    assert [answers.find(keys[number]).optimizer_steps for number in (0, 2)] == [1, 3]


def test_whatever_differs_in_a_request_is_another_answer():
    full = pb.EstimateRunRequest(dataset_profile={"examples": 1}, view=pb.ESTIMATE_VIEW_FULL)

    assert len({key_of(one) for one in (request(1), request(2), full)}) == 3
    assert key_of(request(1)) == key_of(request(1))


def test_nothing_is_known_after_forgetting():
    answers = Answers()
    answers.keep(b"x", pb.Estimate())
    answers.forget()

    assert answers.find(b"x") is None
