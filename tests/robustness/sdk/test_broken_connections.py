# SPDX-License-Identifier: Apache-2.0
"""Connections cut at random bytes, swallowed, and servers that restart: nothing is lost, nothing comes twice."""

import asyncio
import threading

import finetree
import pytest
from finetree.testing import Script

CUTS = 100
STEPS = 2500


def collect(address, name, **options: float):
    with finetree.Client(address) as client:
        return [event.seq for event in client.job(name).events(**options)]


async def collect_async(address, name, **options: float):
    async with finetree.AsyncClient(address) as client:
        return [event.seq async for event in client.job(name).events(**options)]


FOLLOWERS = {
    "sync": collect,
    "async": lambda address, name, **options: asyncio.run(collect_async(address, name, **options)),
}


@pytest.fixture(params=FOLLOWERS)
def follower(request):
    return FOLLOWERS[request.param]


@pytest.fixture
def long_job(suite, spec):
    suite.trainer.script = Script(steps=STEPS)
    with suite.client() as client:
        return client.create_job(spec).refresh()


def test_a_hundred_cuts_at_random_bytes_lose_and_repeat_nothing(suite, long_job, follower, chaos):
    with chaos(suite.address, seed=1, cuts=CUTS) as proxy:
        seen = follower(f"127.0.0.1:{proxy.port}", long_job.name)
    assert seen == list(range(1, long_job.last_seq + 1))
    assert proxy.made >= CUTS * 0.9
    assert 0 < proxy.resets < proxy.made


def test_a_slow_and_uneven_network_that_is_cut_too_changes_nothing(suite, long_job, follower, chaos):
    with chaos(suite.address, seed=7, cuts=10, delay=0.01) as proxy:
        seen = follower(f"127.0.0.1:{proxy.port}", long_job.name)
    assert seen == list(range(1, long_job.last_seq + 1))
    assert proxy.made >= 5


def test_a_connection_on_which_the_client_is_no_longer_heard_brings_every_event(suite, spec, follower, chaos):
    """Half open: what the server sends arrives, nothing of what the client answers does."""
    suite.trainer.script = Script(steps=STEPS, hold_at=5)
    with suite.client() as client:
        job = client.create_job(spec).snapshot

    def go_on() -> None:
        suite.trainer.attached_at_least(1)
        proxy.half_open()
        suite.trainer.advance(job.name)

    with chaos(suite.address) as proxy:
        halving = threading.Thread(target=go_on)
        halving.start()
        try:
            seen = follower(f"127.0.0.1:{proxy.port}", job.name, heartbeat=0.2)
        finally:
            halving.join()
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) > STEPS


def test_server_restarts_in_the_middle(suite, spec, follower):
    suite.trainer.script = Script(steps=300, hold_at=5)
    with suite.client() as client:
        job = client.create_job(spec).snapshot
    restarting = threading.Thread(target=restart_and_advance, args=(suite, job.name))
    restarting.start()
    try:
        seen = follower(suite.address, job.name)
    finally:
        restarting.join()
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == 309
    assert suite.trainer.attached >= 4


def restart_and_advance(suite, name):
    for restart in range(1, 4):
        suite.trainer.attached_at_least(restart)
        suite.trainer.advance(name, 60)
        suite.restart()
    suite.trainer.attached_at_least(4)
    suite.trainer.advance(name)


def test_a_black_hole_is_noticed_by_missing_heartbeats(suite, spec, follower, chaos):
    suite.trainer.script = Script(hold_at=5)
    with suite.client() as client:
        job = client.create_job(spec).snapshot
    with chaos(suite.address) as proxy:
        blackout = threading.Thread(target=black_out, args=(suite, proxy, job.name))
        blackout.start()
        try:
            seen = follower(f"127.0.0.1:{proxy.port}", job.name, heartbeat=0.2)
        finally:
            blackout.join()
    assert seen == list(range(1, 20))
    assert suite.trainer.attached == 2


def black_out(suite, proxy, name):
    suite.trainer.attached_at_least(1)
    proxy.blackhole()
    suite.trainer.advance(name)


def test_cut_creates_make_one_job_each(suite, spec, chaos):
    """The id of a call is the same for all of its attempts, so that a lost answer makes no second job."""
    jobs = 40
    with chaos(suite.address, seed=3, cuts=100, least=1, most=400) as proxy:
        made = [patiently(f"127.0.0.1:{proxy.port}", spec).name for _ in range(jobs)]
        assert proxy.made >= 20
    with suite.client() as client:
        assert sorted(job.name for job in client.list_jobs()) == sorted(made)
    assert len(suite.faults.calls("CreateJob")) > jobs, "no answer was lost"


def patiently(address, spec):
    """Create a job; where the retries of a call were not enough, again with the id that its error names."""
    request_id = ""
    for _ in range(100):
        with finetree.Client(address) as client:
            try:
                return client.create_job(spec, request_id=request_id)
            except finetree.Unavailable as error:
                request_id = error.request_id
    raise AssertionError("100 calls were cut")


def test_cut_transfers_arrive_whole(suite, spec, chaos, tmp_path):
    rows = [{"text": f"{n:08}"} for n in range(40_000)]
    with (
        chaos(suite.address, seed=5, cuts=40, least=50, most=60_000) as proxy,
        finetree.Client(f"127.0.0.1:{proxy.port}") as client,
    ):
        dataset = client.upload_dataset(rows)
        job = client.create_job(spec)
        job.download(tmp_path)
        assert proxy.made >= 3
    assert dataset.profile.examples == len(rows)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size == 300_000
