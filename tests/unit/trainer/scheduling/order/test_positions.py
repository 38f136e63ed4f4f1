# SPDX-License-Identifier: Apache-2.0
"""Positions of waiting jobs, against counting them one by one."""

import dataclasses
import random
from collections.abc import Iterator

from finetree_trainer.scheduling.order.positions import Group, Positions

GPU = Group("h100", frozenset({("n", "cuda:0"), ("n", "cuda:1")}), prepares=False)
ONE = Group("h100-nvl", frozenset({("n", "cuda:1")}), prepares=False)
CPU = Group("cpu", frozenset({("n", "cpu")}), prepares=False)
PREPARE = Group("cpu", frozenset({("n", "cpu")}), prepares=True)
GONE = Group("h100", frozenset(), prepares=False)
GROUPS = (GPU, ONE, CPU, PREPARE, GONE)


@dataclasses.dataclass
class Job:
    uid: str
    group: Group
    counts: bool = True


class Counted:
    """A list of jobs that notes how often it is gone through."""

    def __init__(self, jobs) -> None:
        self.jobs, self.looks = jobs, 0

    def __iter__(self) -> Iterator[Job]:
        self.looks += 1
        return iter(self.jobs)


def one_by_one(jobs, uid) -> int:
    wanted = next(job for job in jobs if job.uid == uid)
    ahead = jobs[: jobs.index(wanted)]
    return 1 + sum(job.counts and job.group.overlaps(wanted.group) for job in ahead)


def test_positions_are_those_of_counting_one_by_one():
    chance = random.Random(7)
    jobs = []
    positions = Positions(lambda: jobs)
    for number in range(200):
        job = Job(f"{number:04}", chance.choice(GROUPS), chance.random() < 0.9)
        jobs.append(job)
        positions.append(job)
        if chance.random() < 0.2:
            jobs.pop(chance.randrange(len(jobs)))
            positions.clear()
        for job in chance.sample(jobs, min(5, len(jobs))):
            assert positions.number(job.uid) == one_by_one(jobs, job.uid)


def test_a_page_of_jobs_and_jobs_behind_the_last_are_counted_without_another_look():
    looked_at = Counted([])
    positions = Positions(lambda: looked_at)
    for number in range(1000):
        job = Job(f"{number:04}", GPU)
        looked_at.jobs.append(job)
        positions.append(job)
    assert [positions.number(job.uid) for job in looked_at.jobs[900:]] == list(range(901, 1001))
    assert looked_at.looks == 0
    looked_at.jobs.pop(0)
    positions.clear()
    assert [positions.number(job.uid) for job in looked_at.jobs] == list(range(1, 1000))
    assert looked_at.looks == 1
