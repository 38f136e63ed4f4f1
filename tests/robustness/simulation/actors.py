# SPDX-License-Identifier: Apache-2.0
"""Who acts in a simulation: clients that keep a history, and the faults."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_runtime.errors import DomainError
from machine import TOTAL_BYTES, DownError, Machine
from virtual_loop import StuckError
from worker_model import weights_after

MOST_VIOLATIONS = 50
"""After so many a client gives up: a broken log may be sent for ever, and no time passes."""
MIN_RUN_SECONDS = 1.0
"""Least time that a training is at work before it may be preempted."""
CROWD_SECONDS = 12.0
"""Time in which jobs are created that crowd."""
PRIORITIES = (job_pb2.JOB_PRIORITY_LOW, job_pb2.JOB_PRIORITY_NORMAL, job_pb2.JOB_PRIORITY_HIGH)
PROJECTS = ("default", "other")
TERMINAL = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


class Client:
    """Creates a job, may cancel it, watches it by two streams, and remembers what it was told."""

    def __init__(self, machine: Machine, harness: Any, number: int) -> None:
        self._machine, self._harness, self._number = machine, harness, number
        self._steps = machine.chance.randint(3, 12)
        self.name = ""
        self.cancelled = False
        """Whether a cancel was acknowledged."""
        self.watched: list[dict[int, bytes]] = [{}, {}]
        self._last_seq = 0

    async def live(self, seconds: float) -> None:
        """Everything that the client does, until its job has ended."""
        chance = self._machine.chance
        await asyncio.sleep(chance.uniform(0.0, chance.choice((seconds / 2, CROWD_SECONDS, CROWD_SECONDS))))
        await self._create()
        work = [self._watch(0), self._watch(1), self._poll()]
        if chance.random() < 0.3:
            work.append(self._cancel(chance.uniform(0.0, 60.0)))
        await asyncio.gather(*work)

    async def _create(self) -> None:
        job = self._harness.job_request("", "tiny")
        job.train.spec.dataset.path = "train.jsonl"
        job.train.spec.training.max_steps = self._steps
        job.priority = self._machine.chance.choice(PRIORITIES)
        parent = f"projects/{self._machine.chance.choice(PROJECTS)}"
        request = trainer_pb2.CreateJobRequest(parent=parent, job=job, request_id=f"create-{self._number}")
        first = (await self._insist("CreateJob", request)).job.name
        self.name = (await self._insist("CreateJob", request)).job.name
        if first != self.name:
            self._machine.violations.append("one request id made two jobs")

    async def _insist(self, method: str, request: Any) -> Any:
        """Call until it is answered; refusals of an outage are tried again, less and less often."""
        failures = 0
        while True:
            try:
                return await self._machine.call(method, request)
            except DownError:
                self._machine.seen[f"{method} was tried again"] += 1
            except DomainError as error:
                if error.reason not in ("DISK_FULL", "STORE_UNAVAILABLE"):
                    raise
            failures += 1
            await asyncio.sleep(self._pause(failures))

    def _pause(self, failures: int) -> float:
        return self._machine.chance.uniform(0.1, 1.0) * min(60.0, 1.5 ** min(failures, 20))

    async def _cancel(self, after: float) -> None:
        await asyncio.sleep(after)
        answered = (await self._insist("CancelJob", trainer_pb2.CancelJobRequest(name=self.name))).job
        self.cancelled = answered.state not in TERMINAL or answered.state == job_pb2.JOB_STATE_CANCELLED
        self._machine.seen["a cancel was acknowledged"] += 1

    async def _poll(self) -> None:
        """Look at the job now and then: what was seen of it never goes back."""
        while True:
            job = (await self._insist("GetJob", trainer_pb2.GetJobRequest(name=self.name))).job
            if job.last_seq < self._last_seq:
                self._machine.violations.append(f"last_seq went from {self._last_seq} to {job.last_seq}")
            self._last_seq = job.last_seq
            if job.state in TERMINAL:
                return
            await asyncio.sleep(self._machine.chance.uniform(1.0, 30.0))

    async def _watch(self, number: int) -> None:
        """Follow the log by streams that break, each going on behind the last event."""
        got, chance = self.watched[number], self._machine.chance
        cursor, failures = "", 0
        while True:
            request = event_log_pb2.WatchJobRequest(name=self.name)
            if cursor and chance.random() < 0.5:
                request.cursor = cursor
            elif got:
                request.after_seq = max(got)
            try:
                async for batch in self._machine.stream("WatchJob", request, most=chance.uniform(5.0, 120.0)):
                    for event in batch.events:
                        self._note(got, event)
                        if event.kind == event_pb2.EVENT_KIND_TERMINAL:
                            return
                    cursor, failures = batch.cursor or cursor, 0
            except (DownError, DomainError):
                self._machine.seen["a watcher came back"] += 1
                failures += 1
            await asyncio.sleep(self._pause(failures))

    def _note(self, got: dict[int, bytes], event: event_pb2.JobEvent) -> None:
        if event.seq != len(got) + 1:
            self._machine.violations.append(f"a watcher got event {event.seq} after {len(got)}")
            if len(self._machine.violations) > MOST_VIOLATIONS:
                raise StuckError
        got[event.seq] = event.SerializeToString(deterministic=True)

    async def check(self) -> list[bytes]:
        """Compare everything with the log as it is at the end. Returns the log."""
        violations = self._machine.violations
        job = (await self._insist("GetJob", trainer_pb2.GetJobRequest(name=self.name))).job
        log: dict[int, bytes] = {}
        events: list[event_pb2.JobEvent] = []
        async for batch in self._machine.stream("WatchJob", event_log_pb2.WatchJobRequest(name=self.name), most=600.0):
            for event in batch.events:
                self._note(log, event)
                events.append(event)
        for got in self.watched:
            if len(got) != len(log):
                violations.append(f"a watcher got {len(got)} events of {len(log)}")
            if any(log.get(seq) != content for seq, content in got.items()):
                violations.append("an event was changed or taken back after a watcher had it")
        violations += [f"the log is not whole: {text}" for text in faults_of(events)]
        if job.last_seq != len(events):
            violations.append(f"the job has {job.last_seq} events, its log {len(events)}")
        self._check_course(job, events)
        return [log[seq] for seq in sorted(log)]

    def _check_course(self, job: job_pb2.Job, events: list[event_pb2.JobEvent]) -> None:
        violations, seen = self._machine.violations, self._machine.seen
        seen[f"a job ended {job_pb2.JobState.Name(job.state).removeprefix('JOB_STATE_').lower()}"] += 1
        seen["a job had several attempts"] += job.attempt > 1
        seen["a job waited for memory"] += any(event.queue_changed.code == "MEMORY_IN_USE" for event in events)
        seen["a job lost what it was promised"] += any(event.HasField("alert") for event in events)
        if self.cancelled and job.state == job_pb2.JOB_STATE_SUCCEEDED:
            seen["a job succeeded although a cancel was acknowledged"] += 1
        if not self.cancelled and job.state == job_pb2.JOB_STATE_CANCELLED:
            violations.append("a job was cancelled that nobody cancelled")
        self._check_preemptions(events)
        expected = 0
        for event in events:
            if event.HasField("attempt_started"):
                expected = event.attempt_started.restored_step
            elif event.HasField("step_metrics"):
                expected += 1
                if event.step_metrics.step != expected:
                    violations.append(f"step {event.step_metrics.step} stands where {expected} belongs")
        if job.state == job_pb2.JOB_STATE_SUCCEEDED:
            final = events[-1].terminal.summary.final_loss
            if expected != self._steps or final != float(weights_after(self._steps)):
                violations.append("a job that succeeded has not trained all of its steps")

    def _check_preemptions(self, events: list[event_pb2.JobEvent]) -> None:
        """A job is preempted after a time at work alone, waits again at once then, and is never left paused."""
        changes = [event for event in events if event.HasField("state_changed")]
        for event, following in itertools.pairwise(changes):
            changed = event.state_changed
            if changed.reason.code != "PREEMPTED" or changed.current != job_pb2.JOB_STATE_PAUSING:
                continue
            self._machine.seen["a job was preempted"] += 1
            if event.elapsed.ToMicroseconds() < MIN_RUN_SECONDS * 1e6:
                self._machine.violations.append("a job was preempted that had hardly begun")
            if following.state_changed.current == job_pb2.JOB_STATE_QUEUED:
                self._machine.seen["a preempted job waited again"] += 1
            elif following.state_changed.current not in (*TERMINAL, job_pb2.JOB_STATE_CANCELLING):
                self._machine.violations.append("a preempted job did not wait again")


def faults_of(events: list[event_pb2.JobEvent]) -> list[str]:
    """What breaks the promises of a log that has ended."""
    found = []
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        found.append("its numbers have a gap")
    if [event.kind == event_pb2.EVENT_KIND_TERMINAL for event in events] != [False] * (len(events) - 1) + [True]:
        found.append("it does not have one Terminal, at its end")
    for name, values in (
        ("attempts", [event.attempt for event in events]),
        ("times", [event.event_time.ToMicroseconds() for event in events]),
    ):
        back = next((i for i, (a, b) in enumerate(itertools.pairwise(values)) if b < a), None)
        if back is not None:
            found.append(f"{name} go back from {values[back]} to {values[back + 1]} at event {back + 2}")
    return found


async def break_things(
    machine: Machine, estimator: Callable[[], Any], seconds: float, *, over: Callable[[], bool]
) -> None:
    """Let faults happen for a while, or until there is nothing left that they could break; then mend all of them."""
    chance, loop = machine.chance, machine.loop
    end = loop.time() + seconds
    kinds = chance.sample(FAULTS, chance.randint(1, len(FAULTS)))
    while loop.time() < end and not over():
        await asyncio.sleep(chance.expovariate(1 / 12.0))
        await chance.choice(kinds)(machine, estimator)
        if machine.trainer is None:
            machine.start_trainer(estimator())
    machine.disk_full = machine.slow_network = machine.lossy_network = False
    machine.skew, machine.others = max(machine.skew, 0.0), 0
    for worker in list(machine.workers.values()):
        if worker.process.frozen:
            loop.thaw(worker.process)
    while machine.trainer is None or not machine.trainer.ready:
        if machine.trainer is None:
            machine.start_trainer(estimator())
        await asyncio.sleep(1.0)


async def _kill_trainer(machine: Machine, estimator: Callable[[], Any]) -> None:
    del estimator
    machine.seen["the trainer was killed"] += 1
    machine.kill_trainer()
    await asyncio.sleep(machine.chance.choice((0.0, 0.5, 5.0, 30.0, 100.0)))


async def _kill_trainer_while_it_starts(machine: Machine, estimator: Callable[[], Any]) -> None:
    machine.kill_trainer()
    machine.start_trainer(estimator())
    await asyncio.sleep(machine.chance.uniform(0.0, 0.05))
    if machine.trainer is not None and not machine.trainer.ready:
        machine.seen["the trainer was killed while it started"] += 1
        machine.kill_trainer()


async def _kill_worker(machine: Machine, estimator: Callable[[], Any]) -> None:
    del estimator
    if machine.workers:
        machine.seen["a worker was killed"] += 1
        machine.kill_worker(machine.chance.choice(sorted(machine.workers)), "it was ended by SIGKILL")


async def _freeze_worker(machine: Machine, estimator: Callable[[], Any]) -> None:
    del estimator
    if machine.workers:
        machine.seen["a worker was frozen"] += 1
        worker = machine.workers[machine.chance.choice(sorted(machine.workers))]
        worker.process.frozen = True
        machine.loop.call_later(machine.chance.choice((1.0, 4.0, 200.0)), machine.loop.thaw, worker.process)


async def _cut_connection(machine: Machine, estimator: Callable[[], Any]) -> None:
    del estimator
    if machine.trainer is not None and machine.trainer.connections:
        machine.seen["a stream was cut"] += 1
        machine.chance.choice(machine.trainer.connections).cut()


async def _fill_disk(machine: Machine, estimator: Callable[[], Any]) -> None:
    del estimator
    machine.seen["the disk was full"] += 1
    machine.disk_full = True
    machine.loop.call_later(machine.chance.uniform(0.5, 40.0), setattr, machine, "disk_full", False)


async def _trouble_network(machine: Machine, estimator: Callable[[], Any]) -> None:
    del estimator
    machine.slow_network, machine.lossy_network = machine.chance.random() < 0.5, machine.chance.random() < 0.5


async def _move_clock(machine: Machine, estimator: Callable[[], Any]) -> None:
    del estimator
    machine.seen["the clock went back"] += 1
    machine.skew -= machine.chance.choice((1.0, 3600.0, 7200.0))


async def _take_memory(machine: Machine, estimator: Callable[[], Any]) -> None:
    """Another program takes a part of the memory or all of it, for a while."""
    del estimator
    machine.others = machine.chance.choice((TOTAL_BYTES // 3, TOTAL_BYTES // 2, TOTAL_BYTES))
    machine.loop.call_later(machine.chance.uniform(1.0, 60.0), setattr, machine, "others", 0)


FAULTS: tuple[Callable[[Machine, Callable[[], Any]], Any], ...] = (
    _kill_trainer,
    _kill_trainer_while_it_starts,
    _kill_worker,
    _freeze_worker,
    _cut_connection,
    _fill_disk,
    _trouble_network,
    _move_clock,
    _take_memory,
)
