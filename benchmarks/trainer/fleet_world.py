# SPDX-License-Identifier: Apache-2.0
"""A fleet on a virtual clock: the trainer's queue, log, store, limits and cluster of nodes, with modelled workers.

Real are `JobQueue` with everything below it, `ClusterNodes` and `ClusterMemory`, `Quotas`, the event log, and the store
on SQLite. Modelled are what a worker does (it takes its time and ends), Ray (a node that fails is gone at once, its
jobs are queued again when their lease is over), and the supervisor: what it writes at a start and an end is written
here.
"""

import asyncio
import hashlib
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.server.limits.file import LimitsFile
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.limits.quotas import QUOTA_REMEDY, WAITING_FOR_QUOTA, Quotas, usual_limits
from finetree_trainer.scheduling.demand import Demand
from finetree_trainer.scheduling.devices import CPU, Slot, placements
from finetree_trainer.scheduling.fit import Blocked, Holder
from finetree_trainer.scheduling.watch import MachineWatch
from finetree_trainer.settings import Settings
from finetree_trainer.store import attempts, database, jobs
from finetree_trainer.store.database import Store
from finetree_trainer.workers.ray.nodes import ClusterMemory, ClusterNodes
from fleet_meters import Costs, Metered, MeteredQueue, MeteredWriter
from fleet_workload import WEIGHTS, Plan, Work, limits_file, nodes, record, work
from sqlalchemy import Connection

sys.path.append(str(Path(__file__).parents[2] / "tests/robustness/simulation"))  # how the control plane is simulated

from virtual_loop import VirtualLoop

EPOCH = 1_767_225_600
"""Seconds since 1970 at which the virtual clock begins."""
PREPARING_SECONDS = 30.0
"""From a worker's start to its first step."""
LOOKS = 5
"""Looks of `MachineWatch` at the end of a run, which the service makes every five seconds."""
CHECKPOINT_SECONDS = 600.0
"""Between two checkpoints: what a job has done since the last one is lost with its node."""
_SHM = Path("/dev/shm")


@dataclass(slots=True)
class Running:
    """An attempt at work."""

    job: Work
    attempt: int
    slots: tuple[Slot, ...]
    began: float
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Seen:
    """What came of a simulation."""

    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds from the creation to the first start, by project."""
    waits_by_count: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    again: list[float] = field(default_factory=list)
    """Seconds in the queue of jobs whose node failed, from the end of their lease to the next start."""
    ended: int = 0
    failures: int = 0
    violations: list[str] = field(default_factory=list)
    most_running: int = 0
    contended: Counter[str] = field(default_factory=Counter)
    """Device seconds of each project while jobs of all projects waited."""
    contended_there: float = 0.0
    busy_contended: float = 0.0
    """Device seconds that there were, and that were used, meanwhile."""
    busy: float = 0.0
    there: float = 0.0
    """Device seconds that were used, and that there were, while jobs waited."""
    checksum: int = 0
    """Of every start and end: the same for the same seed."""


class World:
    """One simulation: everything beside the virtual loop."""

    disk_full = False
    """For the simulated writer."""

    def __init__(self, loop: VirtualLoop, plan: Plan, folder: Path, *, progress: Callable[[str], None]) -> None:
        self.loop, self.chance, self.plan = loop, random.Random(plan.seed), plan
        self.seen, self.store_cpu, self.virtual_seconds = Seen(), 0.0, 0.0
        self._progress, self._said = progress, time.monotonic()
        self._failing = random.Random(plan.seed + 1)
        MeteredWriter.machine = self  # of it, it needs the loop and chance
        settings = Settings(data_dir=folder, launcher="ray", max_queued=plan.jobs)
        self.lease = settings.orphan_grace + settings.checkpoint_grace
        limits = folder / "limits.toml"
        limits.write_text(limits_file(plan), encoding="utf-8")
        self._nodes = {node["name"]: node for node in nodes(plan)}
        self._down: set[str] = set()
        self.devices = ClusterNodes(settings)
        self.devices.replace(list(self._nodes.values()))
        self.quotas = Quotas(LimitsFile(limits, usual_limits(settings)))
        self.log = EventLog(Store(folder / "trainer.db"), clock=self._clock)
        self.log.listeners.append(self.quotas.on_change)
        self.memory = ClusterMemory(self.devices, reserve=settings.memory_reserve_bytes)
        self.queue = MeteredQueue(self.log, self.devices, self.memory)
        self.memory.held_on = self.queue.slots.held_on
        self.queue.may_start, self.queue.use.weight = self._may_start, self.quotas.weight
        self.queue.start = self._start
        self.queue.on_round = self._on_round
        self.watch = MachineWatch(self.log, self.queue, self.memory)
        self.looks = Costs()
        self._works: dict[str, Work] = {}
        self._left: dict[str, float] = {}
        self._running: dict[str, Running] = {}
        self._given: dict[Slot, str] = {}
        self._lost_at: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._at = self._zero = 0.0
        self._over: asyncio.Event = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def _clock(self) -> int:
        return int((EPOCH + self.loop.time()) * 1e6)

    def _spawn(self, work_: Any) -> None:
        task = self.loop.create_task(work_)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.seen.violations.append(f"a part of the simulation failed: {error!r}")
            self._over.set()

    async def run(self) -> None:
        """Run until every job has ended, or for as many rounds as the plan says."""
        coming = work(self.plan)
        first = next(coming)
        backlog, taken = list[Work](), list[tuple[Work, tuple[Slot, ...]]]()
        while first is not None and first.arrives <= 0.0:
            backlog.append(first)
            first = next(coming, None)
        if self.plan.full:
            taken = list(self._fill(iter(backlog)))
            backlog = backlog[len(taken) : len(taken) + self.plan.jobs]
        # Before the queue begins, so that no round looks at half of the backlog.
        await self._create_all([job for job, _ in taken])
        for job, slots in taken:
            name = f"projects/{job.project}/jobs/{job.uid}"
            self.queue.hold(slots, Holder(job.uid, name, int(job_pb2.TASK_KIND_TRAIN)))
            await self._start(job.uid, slots)
        await self._create_all(backlog)
        self._at = self._zero = self.loop.time()
        self.seen = Seen(most_running=len(self._running))
        if first is not None:
            self._spawn(self._arrivals(first, coming))
        if self.plan.node_mtbf:
            self._spawn(self._fail_nodes())
        self._spawn(self.queue.run())
        await self._over.wait()
        self._account()
        self.virtual_seconds = self.loop.time() - self._zero
        for _ in range(LOOKS):
            look = Metered(self.watch.look())
            await look
            self.looks.add(look.cpu, look.wall)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.log.store.close()

    def _fill(self, coming: Iterator[Work]) -> Iterator[tuple[Work, tuple[Slot, ...]]]:
        """Give every device to a job: whole nodes to those that need one, the devices of others one by one."""
        free = [list(group) for _, group in groupby((d for d in self.devices if d.id != CPU), lambda each: each.node)]
        while free:
            job = next(coming)
            nodes_ = [node for node in free[::-1] if len(node) >= job.count]
            # A job for a whole node where none is left takes one device, so that all are held.
            chosen = nodes_[0] if nodes_ else free[-1]
            job = job if nodes_ else replace(job, count=1)
            yield job, tuple(chosen.pop(0).slots()[0] for _ in range(job.count))
            free = [node for node in free if node]

    async def _create_all(self, works: list[Work]) -> None:
        """Have jobs wait as a trainer finds them that is started: rows of the database, read into the queue."""
        rows = [self._row(job) for job in works]
        for job in works:
            self._note_created(job)

        def insert(connection: Connection) -> None:
            for row in rows:
                row.state = int(job_pb2.JOB_STATE_QUEUED)
                jobs.create(connection, row, {})

        await self.log.store.write(insert)
        self._progress(f"created {len(rows)}")
        self.queue.recover(rows)

    def _on_round(self) -> None:
        if self.plan.rounds and len(self.queue.rounds.cpu) >= self.plan.rounds:
            self._over.set()

    async def _arrivals(self, job: Work | None, coming: Iterator[Work]) -> None:
        while job is not None:
            await asyncio.sleep(max(0.0, self._zero + job.arrives - self.loop.time()))
            await self._create(job)
            job = next(coming, None)

    def _row(self, job: Work) -> jobs.JobRow:
        now = self._clock()
        return jobs.JobRow(
            job.uid, job.project, "fleet", int(job_pb2.TASK_KIND_TRAIN), int(job_pb2.JOB_STATE_UNSPECIFIED),
            suspended=False, attempt=0, last_seq=0, oldest_seq=1, attempt_started=0, cancel_requested=0,
            create_time=now, update_time=now, end_time=0, dataset_uid="", evaluation_uid="", snapshot=b"",
            priority=job.priority, record=record(job).SerializeToString(),
        )  # fmt: skip

    def _note_created(self, job: Work) -> None:
        self._works[job.uid], self._left[job.uid] = job, job.seconds
        self._account()
        self._waiting[job.project] += 1

    async def _create(self, job: Work) -> None:
        row = self._row(job)

        def make(connection: Connection, at: int) -> Transaction:
            jobs.create(connection, row, {})
            transaction = Transaction(row, at)
            transaction.move(job_pb2.JOB_STATE_QUEUED, "WAITING_FOR_DEVICE", "Waits for h100.")
            return transaction

        self._note_created(job)
        await self.log.create(make)

    def _may_start(self, row: jobs.JobRow, demand: Demand) -> Blocked | None:
        """As the trainer's application answers, without an object store."""
        held = self.quotas.held_back(row, demand.count)
        if held is None:
            return None
        return Blocked(WAITING_FOR_QUOTA, str(held), remedy=QUOTA_REMEDY, metadata=held.metadata())

    # ------------------------------------------------------------------------------------------- attempts

    async def _start(self, uid: str, slots: tuple[Slot, ...]) -> bool:
        """Begin an attempt: what `Supervisor.start` writes."""
        if self.plan.start_seconds:
            await asyncio.sleep(self.plan.start_seconds)
        job = self._works[uid]
        taken = [slot for slot in slots if slot in self._given]
        if taken or len({slot.node for slot in slots}) != 1 or len({slot.device for slot in slots}) != job.count:
            self.seen.violations.append(f"job {uid} was given {', '.join(map(str, slots))}; of them twice: {taken}")

        def begin(transaction: Transaction, connection: Connection) -> int:
            if transaction.row.state not in states.WAITING:
                return 0
            attempt = transaction.begin_attempt(placements(slots))
            devices = ", ".join(slot.device for slot in slots)
            transaction.move(job_pb2.JOB_STATE_PREPARING, "STARTING", f"Attempt {attempt} starts on {devices}.")
            row = attempts.AttemptRow(uid, attempt, "", "", "", 0, ",".join(map(str, slots)), started=transaction.now)
            attempts.create(connection, row)
            return attempt

        attempt = (await self.log.change(uid, begin)).result
        if not attempt:
            return False
        now = self.loop.time()
        self._account()
        self.queue.started_in_round += 1
        self._given |= dict.fromkeys(slots, uid)
        self._waiting[job.project] -= 1
        self._held[job.project] += job.count
        if uid in self._lost_at:
            self.seen.again.append(now - self._lost_at.pop(uid))
        elif attempt == 1:
            waited = now - self._zero - job.arrives
            self.seen.waits[job.project].append(waited)
            self.seen.waits_by_count[job.count].append(waited)
        self._note("start", uid, *map(str, slots))
        running = self._running[uid] = Running(job, attempt, slots, now)
        self.seen.most_running = max(self.seen.most_running, len(self._running))
        if slots[0].node in self._down:
            self._spawn(self._lose(running))
        else:
            running.timer = self.loop.call_later(PREPARING_SECONDS, self._begin, self._train, running)
        return True

    def _begin(self, part: Callable[[Running], Any], running: Running) -> None:
        self._spawn(part(running))

    async def _train(self, running: Running) -> None:
        uid = running.job.uid
        await self._change(running, partial(_move, state=job_pb2.JOB_STATE_RUNNING, code="TRAINING"))
        if self._running.get(uid) is running and slots_up(running, self._down):
            running.timer = self.loop.call_later(self._left[uid], self._begin, self._end, running)

    async def _end(self, running: Running) -> None:
        def end(transaction: Transaction, connection: Connection) -> None:
            transaction.finish(job_pb2.JOB_STATE_SUCCEEDED, "DONE", "The task is complete.")
            attempts.end(connection, running.job.uid, running.attempt, cause=attempts.ENDED, now=transaction.now)

        await self._change(running, end)
        self._release(running)
        del self._works[running.job.uid], self._left[running.job.uid]
        self.seen.ended += 1
        self._tell("ended")
        if self.seen.ended == self.plan.jobs:
            self._over.set()

    async def _lose(self, running: Running) -> None:
        """Queue a job of a node that failed again, once nothing of it can be alive any more."""
        if running.timer is not None:
            running.timer.cancel()
        uid, done = running.job.uid, self.loop.time() - running.began - PREPARING_SECONDS
        self._left[uid] = max(1.0, self._left[uid] - max(0.0, done // CHECKPOINT_SECONDS) * CHECKPOINT_SECONDS)
        await asyncio.sleep(self.lease)

        def lose(transaction: Transaction, connection: Connection) -> None:
            transaction.recover("WORKER_LOST", "Its node has failed.")
            attempts.end(connection, uid, running.attempt, cause=attempts.SYSTEM, now=transaction.now)

        await self._change(running, lose)
        self._lost_at[uid] = self.loop.time()
        self._release(running)
        self._waiting[running.job.project] += 1

    async def _change(self, running: Running, decide: Callable[[Transaction, Connection], None]) -> None:
        await self.log.change(running.job.uid, decide, attempt=running.attempt)

    def _release(self, running: Running) -> None:
        self._account()
        self._held[running.job.project] -= running.job.count
        for slot in running.slots:
            del self._given[slot]
        del self._running[running.job.uid]
        self._note("end", running.job.uid)
        self.queue.release(running.slots, running.job.uid)

    # ------------------------------------------------------------------------------------------- nodes

    async def _fail_nodes(self) -> None:
        while True:
            await asyncio.sleep(self._failing.expovariate(len(self._nodes) / self.plan.node_mtbf))
            name = self._failing.choice(sorted(self._nodes))
            if name not in self._down:
                self.seen.failures += 1
                self._account()
                self._down.add(name)
                self._note("fail", name)
                self._follow_nodes()
                for running in [each for each in self._running.values() if each.slots[0].node == name]:
                    self._spawn(self._lose(running))
                self.loop.call_later(self.plan.repair, self._repair, name)

    def _repair(self, name: str) -> None:
        self._account()
        self._down.discard(name)
        self._follow_nodes()

    def _follow_nodes(self) -> None:
        self.devices.replace([node for name, node in self._nodes.items() if name not in self._down])
        self.queue.follow_devices()

    # ------------------------------------------------------------------------------------------- accounts

    def _account(self) -> None:
        """Add up what was held since the last change."""
        now = self.loop.time()
        seconds, self._at = now - self._at, now
        if not seconds or not any(self._waiting.values()):
            return
        there = sum(node["gpus"] for name, node in self._nodes.items() if name not in self._down)
        self.seen.there += there * seconds
        self.seen.busy += sum(self._held.values()) * seconds
        if all(self._waiting[project] > 0 for project in WEIGHTS):
            self.seen.contended_there += there * seconds
            self.seen.busy_contended += sum(self._held.values()) * seconds
            for project in WEIGHTS:
                self.seen.contended[project] += self._held[project] * seconds

    def _note(self, *what: str) -> None:
        text = f"{self.seen.checksum}/{self.loop.time():.6f}/{'/'.join(what)}"
        self.seen.checksum = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def _tell(self, what: str) -> None:
        if time.monotonic() - self._said > 10:
            self._said = time.monotonic()
            hours = self.loop.time() / 3600
            running, waiting = len(self._running), len(self.queue)
            self._progress(f"{what}: hour {hours:.2f}, {waiting} wait, {running} run, {self.seen.ended} have ended")


def slots_up(running: Running, down: set[str]) -> bool:
    """Whether the node of an attempt works."""
    return running.slots[0].node not in down


def _move(transaction: Transaction, _connection: Connection, *, state: job_pb2.JobState.ValueType, code: str) -> None:
    transaction.move(state, code, "Training.")


def simulate(plan: Plan, *, progress: Callable[[str], None] = lambda _text: None) -> World:
    """Run a plan; the world as it is at the end."""
    loop = VirtualLoop(random.Random(plan.seed + 2))
    with ExitStack() as stack:
        stack.callback(loop.close)
        stack.enter_context(mock.patch.object(database, "Writer", MeteredWriter))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-", dir=_SHM if _SHM.is_dir() else None))

        async def live() -> World:
            world = World(loop, plan, Path(folder), progress=progress)
            await world.run()
            return world

        return loop.run_until_complete(live())
