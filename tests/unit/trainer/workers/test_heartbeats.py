# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - the kernel's counters set no event
"""Which silent worker is ended: real processes, and checks that the test makes."""

import asyncio
import os
import signal
import sys

import psutil
import pytest
from finetree_trainer.workers.heartbeats import MISSED, Heartbeats
from finetree_trainer.workers.process import Process
from finetree_trainer.workers.session import Session, Worker

WRITES = "import time\nwhile True:\n    open('big', 'wb').write(bytes(1000))\n    time.sleep(0.002)"
SLEEPS = "import time; time.sleep(60)"


@pytest.fixture
async def check(tmp_path):
    """Start a worker that runs a program and never says anything; `check()` is one check, `check.ended` its victims."""

    class Check:
        def __init__(self) -> None:
            self.workers: list[Worker] = []
            self.ended: list[str] = []
            self.heartbeats = Heartbeats(
                lambda: self.workers, interval=20.0, lease=200.0, end=lambda _worker, why: self.ended.append(why)
            )

        def start(self, program: str, *, attached: bool = True, adopted: bool = False) -> Worker:
            process = Process.start((sys.executable, "-c", program), os.environ, tmp_path / "w")
            worker = Worker("w", "", process, adopted=adopted)
            if attached:
                worker.attach(Session())
            self.workers.append(worker)
            return worker

        def __call__(self) -> None:
            self.heartbeats.check()

    made = Check()
    yield made
    for worker in made.workers:
        worker.process.kill()
        await asyncio.wait_for(worker.process.dead.wait(), 60)


async def at_rest(worker, status=psutil.STATUS_SLEEPING) -> None:
    """Wait until a process has done what it will ever do."""
    process, before = psutil.Process(worker.process.pid), None
    async with asyncio.timeout(60):
        while process.status() != status or before is None or worker.process.activity() != before:
            before = worker.process.activity()
            await asyncio.sleep(0.05)


async def progress(worker) -> None:
    before = worker.process.activity()
    async with asyncio.timeout(60):
        while worker.process.activity() in (before, None):
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_stopped_worker_is_ended_after_as_many_checks_as_it_may_miss(check, adopted):
    worker = check.start(WRITES, attached=not adopted, adopted=adopted)
    os.kill(worker.process.pid, signal.SIGSTOP)
    await at_rest(worker, psutil.STATUS_STOPPED)
    check()  # sees for the first time what the process has done
    for _ in range(MISSED):
        check()
    assert not check.ended
    check()
    assert check.ended == ["nothing was heard of it for 100 s, and its process did nothing meanwhile"]


async def test_a_silent_worker_that_writes_is_left_alone_until_its_lease_is_over(check):
    worker = check.start(WRITES)
    for _ in range(10):
        check()
        await progress(worker)
    assert not check.ended
    check()
    assert check.ended == ["nothing was heard of it for 220 s"]


async def test_a_worker_that_is_heard_of_may_sleep(check):
    worker = check.start(SLEEPS)
    await at_rest(worker)
    for _ in range(3):
        for _ in range(MISSED):
            check()
        with worker.heard():
            pass
    # While the service is busy with a message of it, for example since the store is away, it can say nothing more.
    with worker.heard():
        for _ in range(3 * MISSED):
            check()
    assert not check.ended


async def test_a_worker_that_still_loads_its_libraries_is_not_waited_for_here(check):
    await at_rest(check.start(SLEEPS, attached=False))
    for _ in range(3 * MISSED):
        check()
    assert not check.ended
