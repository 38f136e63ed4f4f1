# SPDX-License-Identifier: Apache-2.0
"""When watchers are woken, on a clock of the test's own."""

import heapq

from finetree_trainer.joblog.live.pace import LONGEST, SHARE, Pace
from finetree_trainer.joblog.live.tail import Tail


class Loop:
    """An event loop whose time moves only by what its callbacks take."""

    def __init__(self) -> None:
        self.now, self._number, self._queue = 100.0, 0, []

    def time(self) -> float:
        return self.now

    def call_at(self, when, call, *arguments: object) -> None:
        self._number += 1
        heapq.heappush(self._queue, (when, self._number, call, arguments))

    def call_soon(self, call, *arguments: object) -> None:
        self.call_at(self.now, call, *arguments)

    def run_until(self, end) -> None:
        while self._queue and self._queue[0][0] <= end:
            when, _, call, arguments = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            call(*arguments)
        self.now = max(self.now, end)


class Job(Tail):
    """A tail whose watchers take time to be sent to."""

    def __init__(self, loop, seconds) -> None:
        super().__init__()
        self.loop, self.seconds, self.woken = loop, seconds, []

    def announce(self) -> None:
        self.woken.append(self.loop.now)
        self.loop.now += self.seconds
        super().announce()


def events_every(loop, pace, jobs, gap, seconds):
    end = loop.now + seconds
    while loop.now < end:
        for job in jobs:
            job.last_seq += 1
            pace.wake(job)
        loop.run_until(loop.now + gap)
    loop.run_until(loop.now + LONGEST)


def test_the_first_event_after_a_pause_is_sent_at_once():
    loop = Loop()
    pace, job = Pace(loop), Job(loop, 0.001)
    job.last_seq = 1
    pace.wake(job)
    loop.run_until(loop.now)
    assert (job.woken, job.announced) == ([100.0], 1)


def test_cheap_watchers_get_every_event():
    loop = Loop()
    pace, job = Pace(loop), Job(loop, 0.0001)
    events_every(loop, pace, [job], 0.02, 2.0)
    assert len(job.woken) >= 98


def test_waking_takes_no_more_than_its_share():
    loop = Loop()
    pace, job = Pace(loop), Job(loop, 0.008)
    events_every(loop, pace, [job], 0.02, 20.0)
    assert len(job.woken) * job.seconds <= 1.2 * SHARE * 20.0
    assert job.announced == job.last_seq


def test_many_jobs_share_the_share():
    loop = Loop()
    pace = Pace(loop)
    jobs = [Job(loop, 0.0005) for _ in range(20)]
    events_every(loop, pace, jobs, 0.02, 20.0)
    assert sum(len(job.woken) * job.seconds for job in jobs) <= 1.2 * SHARE * 20.0
    assert all(job.announced == job.last_seq for job in jobs)


def test_no_event_waits_longer_than_the_limit_however_slow_the_loop_is():
    loop = Loop()
    pace, job = Pace(loop), Job(loop, 0.1)
    events_every(loop, pace, [job], 0.02, 5.0)
    assert pace.interval == LONGEST
    gaps = [after - before for before, after in zip(job.woken, job.woken[1:], strict=False)]
    assert max(gaps) <= LONGEST + job.seconds + 0.02


def test_a_loop_that_has_time_again_is_used_again():
    loop = Loop()
    pace, job = Pace(loop), Job(loop, 0.1)
    events_every(loop, pace, [job], 0.02, 2.0)
    job.seconds = 0.0001
    events_every(loop, pace, [job], 0.02, 5.0)
    assert pace.interval < 0.01
