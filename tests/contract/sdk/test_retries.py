# SPDX-License-Identifier: Apache-2.0
"""Unary calls that are made again: how often, after which time, and what an outage costs the service."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import finetree
import pytest

STOPPING = finetree.Unavailable("restarting", reason="SERVER_STOPPING")


def test_a_service_that_asks_for_time_gets_it(do, suite):
    suite.faults.fail_next("ListMethods", finetree.Unavailable("down", reason="SERVER_STOPPING", retry_after=0.4))
    started = time.monotonic()
    assert len(do(do.client().list_methods())) == 5
    assert time.monotonic() - started >= 0.4
    assert len(suite.faults.calls("ListMethods")) == 2


def test_a_service_that_asks_for_too_much_time_is_not_waited_for(do, suite):
    suite.faults.fail_next("ListMethods", finetree.Unavailable("down", reason="SERVER_STOPPING", retry_after=60.0))
    with pytest.raises(finetree.Unavailable) as caught:
        do(do.client().list_methods())
    assert caught.value.retry_after == 60
    assert len(suite.faults.calls("ListMethods")) == 1


def test_a_full_service_is_not_asked_again(do, suite):
    suite.faults.fail_next("ListMethods", finetree.ResourceExhausted("full", reason="QUEUE_FULL", retry_after=0.01))
    with pytest.raises(finetree.ResourceExhausted):
        do(do.client().list_methods())
    assert len(suite.faults.calls("ListMethods")) == 1


def test_a_server_without_a_place_is_asked_again(do, suite):
    refusal = finetree.ResourceExhausted("too many calls", reason="SERVER_OVERLOADED", retry_after=0.05)
    suite.faults.fail_next("ListMethods", refusal, times=2)
    assert len(do(do.client().list_methods())) == 5
    assert len(suite.faults.calls("ListMethods")) == 3


def test_an_outage_is_multiplied_by_no_client(do, suite):
    suite.faults.fail_next("ListMethods", STOPPING, times=10_000)
    client = do.client().with_options(retries=1)
    for _ in range(30):
        with pytest.raises(finetree.Unavailable):
            do(client.list_methods())
    assert len(suite.faults.calls("ListMethods")) == 30 + 20


def test_a_client_made_of_another_shares_its_channels_and_its_budget(do, suite):
    client = do.client(retries=0)
    other = client.with_options(timeout=3, retries=1)
    assert type(other) is type(client)

    async def channels() -> list[object]:
        return [each._transport.channel("trainer") for each in (client, other)]

    one, two = do(channels()) if do.aio else [each._transport.channel("trainer") for each in (client, other)]
    assert one is two
    suite.faults.fail_next("ListMethods", STOPPING)
    assert len(do(other.list_methods())) == 5
    assert [round(call.seconds) for call in suite.faults.calls("ListMethods")] == [3, 3]
    do(other.close())
    with pytest.raises(finetree.ClientClosed):
        do(client.list_methods())


def test_handles_keep_the_limits_of_their_client(do, suite, spec):
    job = do(do.client().with_options(timeout=4).create_job(spec))
    do(job.refresh())
    do(job.wait())
    assert [round(call.seconds) for call in suite.faults.calls("GetJob")] == [4, 4]


def test_every_attempt_has_the_same_id_and_one_deadline_bounds_them_all(do, suite):
    suite.faults.fail_next("ListMethods", STOPPING, times=3)
    do(do.client().list_methods(timeout=9))
    calls = suite.faults.calls("ListMethods")
    assert len(calls) == 4
    assert len({call.request_id for call in calls}) == 1
    # Their pauses are 0.3 s at least, and gRPC writes a timeout of seconds in hundredths.
    assert calls[-1].seconds < calls[0].seconds - 0.25


def test_a_call_rides_out_a_restart(do, suite):
    """Not in flight by chance: the call is held in the service, which then stops."""
    client = do.client(retries=20)
    held = suite.faults.hold("ListMethods")

    def restart() -> None:
        while not suite.faults.calls("ListMethods"):
            time.sleep(0.01)
        suite.stop(grace=0)
        held.set()
        suite.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    try:
        assert len(do(client.list_methods(timeout=30))) == 5
    finally:
        restarting.join()
    assert len(suite.faults.calls("ListMethods")) == 2


def test_threads_share_a_client(suite):
    with suite.client() as client, ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: len(client.list_methods()), range(200), timeout=60)) == {5}


def test_the_synchronous_client_inside_a_running_loop(suite, spec):
    async def cell() -> tuple[int, int]:
        with suite.client() as client:
            return len(client.list_methods()), len(list(client.create_job(spec).events()))

    assert asyncio.run(cell()) == (5, 19)
