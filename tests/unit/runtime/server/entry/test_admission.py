# SPDX-License-Identifier: Apache-2.0
"""The line before the places of unary calls."""

import asyncio
import time

import pytest
from finetree_runtime.config.settings import ServiceSettings
from finetree_runtime.errors import DeadlineExceeded, ResourceExhausted
from finetree_runtime.server import context
from finetree_runtime.server.entry.admission import Admission, CallLimits, Line, Places


def within(seconds):
    """Make this task a call with so much time left."""
    context.CURRENT.set(context.Call(deadline=time.monotonic() + seconds))


async def turns(count=50):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_calls_start_in_the_order_in_which_they_came():
    line, started = Line(CallLimits(running=1, waiting=10)), []

    async def call(number) -> None:
        await line.enter()
        started.append(number)
        await asyncio.sleep(0)
        line.leave()

    await asyncio.gather(*map(call, range(8)))
    assert started == list(range(8))


async def test_no_more_run_at_once_than_there_are_places():
    line, running, most = Line(CallLimits(running=3, waiting=100)), 0, 0

    async def call() -> None:
        nonlocal running, most
        await line.enter()
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        line.leave()

    await asyncio.gather(*(call() for _ in range(60)))
    assert most <= 3


async def test_a_busy_server_starts_nothing_while_calls_come_in():
    line = Line(CallLimits(running=4, waiting=10))
    await line.enter()
    line.leave()
    begun = asyncio.create_task(line.enter())
    for _ in range(20):
        line.note_arrival()
        await asyncio.sleep(0)
        assert not begun.done()
    await asyncio.wait_for(begun, 60)


async def test_a_call_that_cannot_be_begun_before_its_deadline_is_refused_at_once():
    line = Line(CallLimits(running=1, waiting=50))
    await line.enter()
    waiting = [asyncio.create_task(line.enter()) for _ in range(10)]
    await turns()
    line._pace = 0.1  # a call ends every tenth of a second; eleven are ahead
    within(0.5)
    with pytest.raises(ResourceExhausted) as refused:
        await line.enter()
    assert (refused.value.reason, refused.value.retry_delay) == ("SERVER_OVERLOADED", 1.0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_call_whose_deadline_has_passed_is_dropped_before_and_after_the_line():
    line = Line(CallLimits(running=1, waiting=5))
    within(-1.0)
    with pytest.raises(DeadlineExceeded, match="nothing was done"):
        await line.enter()
    within(60.0)
    await line.enter()

    async def late() -> str:
        within(60.0)
        call = context.CURRENT.get()
        entering = asyncio.create_task(line.enter())
        await turns()
        call.deadline = time.monotonic() - 1.0
        line.leave()
        with pytest.raises(DeadlineExceeded) as passed:
            await entering
        return passed.value.reason

    assert await asyncio.wait_for(asyncio.create_task(late()), 60) == "DEADLINE_PASSED"
    within(60.0)
    await asyncio.wait_for(line.enter(), 60)  # its place was given back


async def test_a_call_that_goes_when_its_turn_comes_gives_the_place_on():
    line = Line(CallLimits(running=1, waiting=5))
    await line.enter()
    first, second = (asyncio.create_task(line.enter()) for _ in range(2))
    await turns()
    line.leave()
    async with asyncio.timeout(60):
        while len(line._turns) == 2:  # noqa: ASYNC110 - the line tells nobody
            await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 60)
    assert first.cancelled()


def test_every_kind_of_call_has_places_of_its_own():
    admission = Admission(CallLimits(running=1, waiting=0, streams=1))
    assert not any(admission.refusal(stream=s, side=t) for s in (False, True) for t in (False, True))
    admission.streams.take()
    assert admission.refusal(stream=True, side=False) == "TOO_MANY_STREAMS"
    assert not any(admission.refusal(stream=s, side=t) for s, t in ((False, False), (False, True), (True, True)))
    with pytest.raises(ResourceExhausted) as refused:
        admission.streams.take()
    assert refused.value.reason == "TOO_MANY_STREAMS"


def test_places_are_given_back_where_the_block_fails():
    places = Places(1, "SERVER_OVERLOADED")
    with pytest.raises(ResourceExhausted), places.taken(), places.taken():
        pass
    assert not places.full


def test_limits_come_from_settings_and_are_shown_by_name():
    limits = CallLimits.of(ServiceSettings(max_running_calls=0, max_waiting_calls=-1, max_streams=7))
    assert limits == CallLimits(running=1, waiting=0, streams=7)
    shown = CallLimits.of(ServiceSettings()).shown()
    assert (shown["max_running_calls"], shown["max_waiting_calls"], shown["max_streams"]) == (32, 64, 4096)
