# SPDX-License-Identifier: Apache-2.0
"""Calls that crowd are gathered and answered abreast, each as it would be alone; one by itself never waits."""

import asyncio
from typing import Any

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_estimator import answering
from finetree_estimator.catalog import prices
from finetree_estimator.gathering import FEWEST, FIRST_TRY, LAST_TRY, MOST, Gathering, Sizing
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import fallbacks
from finetree_runtime.errors import InvalidArgument, NotFound
from finetree_runtime.server import validation
from google.protobuf import json_format


def crowded(calls: int, groups: int) -> Sizing:
    """A sizing after groups of a server that so many calls at once wait for."""
    sizing = Sizing()
    for _ in range(groups):
        sizing.came(min(calls, sizing.wanted))
    return sizing


def test_one_call_is_waited_for_at_first():
    assert Sizing().wanted == 1


@pytest.mark.parametrize(("calls", "usual"), [(4, 4), (8, 8), (16, 16), (1000, MOST)])
def test_a_crowd_is_found_and_its_number_kept(calls, usual):
    sizing = crowded(calls, 2000)
    wanted = []
    for _ in range(LAST_TRY):
        wanted.append(sizing.wanted)
        sizing.came(min(calls, sizing.wanted))

    assert wanted.count(usual) >= LAST_TRY - 2
    assert max(wanted) <= MOST


@pytest.mark.parametrize("calls", [1, 2, FEWEST - 1])
def test_few_calls_at_once_are_seldom_held_back(calls):
    sizing, held_back = Sizing(), 0
    for _ in range(20 * LAST_TRY):
        held_back += sizing.wanted > calls
        sizing.came(min(calls, sizing.wanted))

    assert 0 < held_back <= 20 + LAST_TRY.bit_length()


def test_a_crowd_that_goes_is_forgotten_after_a_few_groups():
    sizing, groups = crowded(16, 2000), 0
    while sizing.wanted > 1:
        sizing.came(1)
        groups += 1

    assert groups <= MOST.bit_length()


def test_a_crowd_that_pauses_is_soon_found_again():
    sizing, groups = crowded(16, 2000), 0
    sizing.came(2)
    assert sizing.wanted < 16
    while sizing.wanted < 16:
        sizing.came(sizing.wanted)
        groups += 1

    assert groups <= FIRST_TRY


def test_a_server_that_rests_between_calls_never_holds_one_back():
    sizing = Sizing()
    for _ in range(10 * LAST_TRY):
        sizing.rested()
        assert sizing.wanted == 1
        sizing.came(1)


async def test_a_group_is_handed_on_once_it_has_its_number():
    handed = []
    gathering = Gathering(handed.append)
    for _ in range(FIRST_TRY):
        assert gathering.alone()
        gathering.answered_alone()

    assert not gathering.alone()
    for item in range(FEWEST):
        gathering.add(item)
    assert handed == []
    await asyncio.sleep(0)
    assert handed == [[0, 1, 2, 3]]


async def test_a_group_that_lacks_calls_is_handed_on_all_the_same():
    handed = asyncio.Queue()
    gathering = Gathering(handed.put_nowait)
    for _ in range(FIRST_TRY):
        gathering.answered_alone()
    gathering.add("only one")

    assert await handed.get() == ["only one"]
    assert gathering.alone()


KNOWLEDGE = Knowledge(prices.packaged())
ODD = {"spec": {"model": {"name": "nonesuch"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}}}


def request(number: int) -> bytes:
    spec = {"model": {"name": "smollm2-135m"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}}
    document = {"spec": spec, "dataset_profile": {"examples": 100 + number}}
    return json_format.ParseDict(document if number != 3 else ODD, pb.EstimateRunRequest()).SerializeToString()


def gathering_servicer(monkeypatch) -> tuple[EstimatorServicer, list[int]]:
    """A servicer that calls crowd to, and the sizes of what it answers abreast."""
    sizes, answer = [], answering.answer

    def counted(questions: list[answering.Question], *rest: object) -> None:
        sizes.append(len(questions))
        answer(questions, *rest)

    servicer = EstimatorServicer(KNOWLEDGE)
    servicer._gathering._sizing = crowded(FEWEST, 2 * FIRST_TRY - 1)
    monkeypatch.setattr(answering, "answer", counted)
    return servicer, sizes


async def waited_for(servicer, numbers):
    """What calls are answered that come at once."""
    calls = [servicer.EstimateRun(request(number), None) for number in numbers]
    assert all(isinstance(call, asyncio.Future) for call in calls)
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_calls_of_a_group_are_answered_as_each_is_alone(monkeypatch):
    servicer, sizes = gathering_servicer(monkeypatch)
    answers = await waited_for(servicer, range(FEWEST))
    lonely = EstimatorServicer(KNOWLEDGE)

    assert sizes == [FEWEST]
    assert answers[:3] == [lonely.EstimateRun(request(number), None) for number in range(3)]
    assert isinstance(answers[3], NotFound)
    assert servicer.EstimateRun(request(0), None) == answers[0], "it is known from now on"


async def test_a_call_that_was_cancelled_is_not_answered(monkeypatch):
    servicer, sizes = gathering_servicer(monkeypatch)
    first, *others = [servicer.EstimateRun(request(number), None) for number in (0, 1, 2, 4)]
    first.cancel()

    assert all(isinstance(answer, bytes) for answer in await asyncio.gather(*others))
    assert sizes == [FEWEST - 1]


@pytest.mark.parametrize(("module", "name"), [(validation, "certain"), (fallbacks, "choose")])
async def test_a_fault_of_ours_fails_one_call_only(monkeypatch, module, name):
    servicer, _ = gathering_servicer(monkeypatch)
    sound = getattr(module, name)

    def faulty(asked: Any, *more: Any, **named: Any) -> Any:
        if isinstance(asked, pb.EstimateRunRequest) and asked.dataset_profile.examples == 101:
            raise ZeroDivisionError
        return sound(asked, *more, **named)

    monkeypatch.setattr(module, name, faulty)
    answers = await waited_for(servicer, (0, 1, 2, 4))

    assert isinstance(answers[1], ZeroDivisionError)
    assert all(isinstance(answers[place], bytes) for place in (0, 2, 3))
    batch = pb.BatchEstimateRunsRequest(rows=[{"key": "1", "request": pb.EstimateRunRequest.FromString(request(1))}])
    with pytest.raises(ZeroDivisionError):
        await servicer.BatchEstimateRuns(batch.SerializeToString(), None)


async def test_what_is_no_request_is_refused_at_once(monkeypatch):
    servicer, _ = gathering_servicer(monkeypatch)

    with pytest.raises(InvalidArgument):
        servicer.EstimateRun(b"\xff\xff", None)
