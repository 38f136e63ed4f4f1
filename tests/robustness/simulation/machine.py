# SPDX-License-Identifier: Apache-2.0
"""The simulated machine: a trainer that is started and killed, worker processes, connections, and a disk that fills up.

The trainer is the real one from the servicer down: store, log, queue, supervisor, recovery, watches, on real files.
Replaced are the clock, chance, threads, gRPC and worker processes.
"""

import asyncio
import contextvars
import fcntl
import os
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import event_log_pb2
from finetree_runtime.meter import OFF
from finetree_runtime.server import context as runtime_context
from finetree_runtime.server.replies import SerializedReply
from finetree_trainer import application as program
from finetree_trainer.scheduling.machine.meter import Reading, Session
from finetree_trainer.store import writer as store_writer
from finetree_trainer.workers.process import LOCK, NOTE
from grpc import aio
from sqlalchemy.exc import OperationalError
from virtual_loop import Process, VirtualLoop
from worker_model import WorkerModel


class DownError(Exception):
    """The trainer does not answer, or its answer was lost on the way."""


class SimulatedWriter(store_writer.Writer):
    """The store's writer without a thread: groups are committed by the real code, at times that the seed decides."""

    machine: "Machine"

    def __init__(self, engine: Any, backend: Any) -> None:
        self._engine, self._backend = engine, backend
        self._connection = None
        self.on_commit = lambda _seconds, _changes: None
        self._waiting: list[Any] = []
        self._due = False

    def submit(self, run: Any) -> Any:
        work = store_writer._Work(run)
        self._waiting.append(work)
        if not self._due:
            self._due = True
            machine = self.machine
            machine.loop.call_later(machine.chance.choice((0.0, 0.0005, 0.003, 0.03)), self._turn)
        return work.future

    def close(self) -> None:
        self._turn()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _turn(self) -> None:
        self._due = False
        group = [work for work in self._waiting if work.future.set_running_or_notify_cancel()]
        self._waiting.clear()
        if not group:
            return
        if self.machine.disk_full:
            full = sqlite3.OperationalError("database or disk is full")
            full.sqlite_errorcode = sqlite3.SQLITE_FULL
            failure = store_writer.as_domain(OperationalError("COMMIT", {}, full))
            self.machine.seen["a write met a full disk"] += 1
            for work in group:
                work.future.set_exception(failure)
            return
        self._commit(self._connected(), group)


class SimulatedProcess:
    """What the supervisor holds of a worker process, in place of `workers.process.Process`."""

    machine: "Machine"

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid = folder, pid
        self.exit = self.reason = ""
        self.overran = False
        self.dead = asyncio.Event()
        self.machine.watch(self)

    @classmethod
    def start(cls, command: Any, environment: Any, folder: Path, user: Any = None) -> "SimulatedProcess":
        del command, user
        machine = cls.machine
        if machine.disk_full:
            raise OSError(28, "No space left on device")
        folder.mkdir(parents=True)
        pid = machine.start_worker(folder, environment["FINETREE_WORKER_TOKEN"])
        (folder / NOTE).write_text("{}", encoding="ascii")
        return cls(folder, pid)

    @classmethod
    def adopt(cls, folder: Path, pid: int) -> "SimulatedProcess":
        cls.machine.seen["a living worker was adopted"] += 1
        return cls(folder, pid)

    async def placed(self) -> None:
        pass

    def give_up(self) -> None:
        self.kill()

    def activity(self) -> tuple[int, ...]:
        worker = self.machine.workers.get(self.pid)
        return (worker.turns,) if worker is not None else (0,)

    def limit_output(self) -> None:
        pass

    def terminate(self) -> None:
        worker = self.machine.workers.get(self.pid)
        if worker is not None and not worker.process.frozen:
            worker.on_sigterm()

    def kill(self) -> None:
        self.machine.kill_worker(self.pid, "it was ended by SIGKILL")


class SimulatedMeter:
    """Reads the simulated machine's memory: what its workers have taken, and what other programs hold."""

    machine: "Machine"

    def __init__(self, gpus: Any, known: Any) -> None:
        del gpus, known

    def read(self) -> Reading:
        return self.machine.memory()


class _Service:
    """What the trainer needs of `finetree_runtime.server.service.Service`."""

    version = "simulated"
    meter = OFF
    tracing = None

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self.servicer: Any = None

    def add(self, adder: Any, servicer: Any, name: str) -> None:
        del adder, name
        self.servicer = servicer

    async def end_readiness(self) -> None:
        self._machine.violations.append("a background loop of the trainer died")


class _Attach:
    """The workers' door of one run of the trainer."""

    async def stop(self, grace: float) -> None:
        del grace


class Trainer:
    """One run of the trainer, from its start to its death."""

    def __init__(self, machine: "Machine", number: int) -> None:
        self.process = Process(f"trainer-{number}")
        self.context = self.process.context()
        self.service = _Service(machine)
        self.application: Any = None
        self.workers: Any = None
        """Its WorkerServicer."""
        self.ready = False
        self.watched: list[SimulatedProcess] = []
        self.connections: list[Connection] = []
        self.calls: dict[asyncio.Future[Any], None] = {}


class _Context:
    """What Attach needs of a gRPC context."""

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        del trailing_metadata
        raise aio.AbortError(f"{code} {details}")


_CUT = object()
WINDOW = 16
"""Messages of a stream that nobody has read yet: what the flow control of a connection leaves."""
TOTAL_BYTES, PROMISED_BYTES = 11 << 28, 1 << 30
"""Memory of the simulated machine, and what the estimator of the tests says that a job needs: two have room at once."""


class Connection:
    """A worker's stream: messages arrive in their order, each after a while, until somebody cuts it."""

    def __init__(self, machine: "Machine", trainer: Trainer) -> None:
        self._machine, self.trainer = machine, trainer
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._outbox: asyncio.Queue[Any] = asyncio.Queue()
        self._arrivals = {"in": 0.0, "out": 0.0}
        self.broken = False
        trainer.connections.append(self)
        self._task = machine.loop.create_task(self._serve(), context=trainer.process.context())

    def write(self, message: Any) -> None:
        """Send to the trainer."""
        if self.broken:
            raise DownError
        self._deliver("in", self._inbox, message)

    async def read(self) -> Any:
        """Wait for a message of the trainer."""
        message = await self._outbox.get()
        if message is _CUT:
            raise DownError
        return message

    def cut(self) -> None:
        """End it; what was on the way is lost."""
        if not self.broken:
            self.broken = True
            self._outbox.put_nowait(_CUT)
            if self.trainer.process.alive:
                self._task.cancel()

    async def _serve(self) -> None:
        try:
            async for response in self.trainer.workers.Attach(self._requests(), _Context()):
                self._deliver("out", self._outbox, response)
        except aio.AbortError:
            self._deliver("out", self._outbox, None)
        finally:
            self._machine.loop.call_later(1.0, self.cut)

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            yield await self._inbox.get()

    def _deliver(self, way: str, queue: "asyncio.Queue[Any]", message: Any) -> None:
        machine = self._machine
        now = machine.loop.time()
        arrival = max(self._arrivals[way], now + machine.latency())
        self._arrivals[way] = arrival

        def arrive() -> None:
            if not self.broken:
                queue.put_nowait(message)

        machine.loop.call_at(arrival, arrive, context=machine.context)


class Machine:
    """Everything outside of the trainer and its workers."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, settings: Any, *, slots: int) -> None:
        self.loop, self.chance, self.settings, self.slots = loop, chance, settings, slots
        self.context = contextvars.copy_context()
        self.trainer: Trainer | None = None
        self.workers: dict[int, WorkerModel] = {}
        self.disk_full = False
        self.slow_network = False
        self.lossy_network = False
        self.skew = 0.0
        """Seconds that the clock of the machine is off."""
        self.seen: Counter[str] = Counter()
        """What has happened, for "sometimes" assertions."""
        self.violations: list[str] = []
        self._locks: dict[int, int] = {}
        self._pids = 1000
        self._runs = 0
        self.kept: list[Any] = []
        self.others = 0
        """Bytes that other programs hold."""
        SimulatedWriter.machine = SimulatedProcess.machine = SimulatedMeter.machine = self

    def latency(self) -> float:
        """Seconds that a message is on the way."""
        if self.slow_network and self.chance.random() < 0.1:
            return self.chance.uniform(0.5, 5.0)
        return self.chance.uniform(0.0001, 0.01)

    def memory(self) -> Reading:
        """The machine's memory now."""
        sessions = {pid: Session(worker.memory, pids=(pid,)) for pid, worker in self.workers.items()}
        used = self.others + sum(session.memory for session in sessions.values())
        return Reading(total=TOTAL_BYTES, free=max(0, TOTAL_BYTES - used), sessions=sessions, at=self.loop.time())

    # ------------------------------------------------------------------------------------------------ trainer

    def start_trainer(self, estimator: Any) -> None:
        """Begin to start the trainer; it is ready some time later, unless it is killed before."""
        self._runs += 1
        trainer = self.trainer = Trainer(self, self._runs)

        async def serve(workers: Any, layout: Any, settings: Any) -> _Attach:
            del layout, settings
            trainer.workers = workers
            return _Attach()

        program.worker_servicer.serve = serve
        trainer.application = program.Application(self.settings, trainer.service, estimator)

        async def start() -> None:
            await trainer.application.start()
            await trainer.application.run()

        starting = self.loop.create_task(start(), context=trainer.context)
        starting.add_done_callback(lambda done: self._started(trainer, done), context=self.context)

    def _started(self, trainer: Trainer, done: "asyncio.Task[None]") -> None:
        error = done.exception()
        if error is None:
            trainer.ready = trainer.process.alive
            return
        self.seen["a start failed"] += 1
        if not self.disk_full:
            self.violations.append(f"the trainer did not start: {error!r}")
        self.kill_trainer()

    def kill_trainer(self) -> None:
        """End the trainer as SIGKILL does: nothing of it runs any more, its locks are free, its streams are broken."""
        trainer, self.trainer = self.trainer, None
        if trainer is None:
            return
        self.loop.kill(trainer.process)
        self.kept.append(trainer)
        for connection in trainer.connections:
            connection.cut()
        for future in trainer.calls:
            if not future.done():
                future.set_exception(DownError())
        application = trainer.application
        if application._lock >= 0:
            os.close(application._lock)
        store = getattr(application, "_store", None)
        if store is not None:
            store._writer._hang_up()
            store._reading.dispose()
            store._writing.dispose()

    async def call(self, method: str, request: Any) -> Any:
        """Make a call. Raises DownError where the trainer is away, dies meanwhile, or its answer is lost."""
        trainer = self.trainer
        await asyncio.sleep(self.latency())
        if trainer is None or not trainer.ready or self.trainer is not trainer:
            raise DownError
        answer: asyncio.Future[Any] = self.loop.create_future()
        trainer.calls[answer] = None

        async def handle() -> None:
            runtime_context.CURRENT.set(runtime_context.Call(method=method))
            try:
                result = await getattr(trainer.service.servicer, method)(request, None)
            except Exception as error:  # noqa: BLE001 - it is the answer
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        self.loop.create_task(handle(), context=trainer.process.context())
        try:
            result = await answer
        finally:
            trainer.calls.pop(answer, None)
        await asyncio.sleep(self.latency())
        if self.lossy_network and self.chance.random() < 0.2:
            self.seen["an answer was lost"] += 1
            raise DownError
        return result

    async def stream(self, method: str, request: Any, *, most: float) -> AsyncIterator[Any]:
        """Read a stream until it ends, breaks (DownError) or has taken so many seconds."""
        trainer = self.trainer
        if trainer is None or not trainer.ready:
            raise DownError
        queue: asyncio.Queue[Any] = asyncio.Queue(WINDOW)
        broken: asyncio.Future[Any] = self.loop.create_future()
        trainer.calls[broken] = None
        task = self.loop.create_task(_answer(trainer, method, request, queue), context=trainer.process.context())
        end = self.loop.time() + most
        try:
            while (item := await self._next(queue, broken, end)) is not None:
                yield item
        finally:
            trainer.calls.pop(broken, None)
            if broken.done():
                broken.exception()
            if trainer.process.alive:
                task.cancel()

    async def _next(self, queue: "asyncio.Queue[Any]", broken: "asyncio.Future[Any]", end: float) -> Any:
        """The next item of a stream; None at its end, and when its time is over."""
        getting = asyncio.ensure_future(queue.get())
        left = max(0.0, end - self.loop.time())
        await asyncio.wait((getting, broken), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            item = getting.result()
            if isinstance(item, Exception):
                raise item
            return item
        getting.cancel()
        if broken.done():
            raise DownError
        return None

    # ------------------------------------------------------------------------------------------------ workers

    def start_worker(self, folder: Path, token: str) -> int:
        """Start a worker process; its lock is held until it is dead. Returns its process id."""
        self._pids += 1
        pid = self._pids
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._locks[pid] = lock
        worker = self.workers[pid] = WorkerModel(self, pid, token)
        self.loop.create_task(worker.run(), context=worker.process.context())
        return pid

    def watch(self, handle: SimulatedProcess) -> None:
        """Tell a trainer of a process's death, a while after it."""
        trainer = self.trainer
        assert trainer is not None
        trainer.watched.append(handle)
        if handle.pid not in self.workers:
            self._tell(trainer, handle)

    def kill_worker(self, pid: int, how: str) -> None:
        """End a worker process as SIGKILL does."""
        worker = self.workers.pop(pid, None)
        if worker is None:
            return
        self.loop.kill(worker.process)
        self.kept.append(worker)
        worker.close()
        os.close(self._locks.pop(pid))
        trainer = self.trainer
        for handle in trainer.watched if trainer is not None else ():
            if handle.pid == pid:
                handle.exit = handle.exit or how
                self._tell(trainer, handle)

    def _tell(self, trainer: Trainer, handle: SimulatedProcess) -> None:
        self.loop.call_later(self.chance.uniform(0.0, 0.05), handle.dead.set, context=trainer.process.context())

    def connect(self) -> Connection:
        """Open a worker's stream."""
        if self.trainer is None or not self.trainer.ready:
            raise DownError
        return Connection(self, self.trainer)

    def took_task(self, worker: WorkerModel) -> None:
        """Check that no two processes work at one job, and that slots are not given twice."""
        same = [w for w in self.workers.values() if w is not worker and w.job == worker.job and not w.ended]
        if same:
            self.violations.append(f"two living workers have job {worker.job}")
        busy = sum(1 for other in self.workers.values() if other.job and not other.ended)
        if busy * PROMISED_BYTES > TOTAL_BYTES:
            self.violations.append(f"{busy} workers are at work, to which more memory is promised than there is")
        self.seen["three slots had work for two"] += self.slots == 3 and busy == 2
        if busy > self.slots:
            self.violations.append(f"{busy} workers are at work on {self.slots} slots")


async def _answer(trainer: Trainer, method: str, request: Any, queue: "asyncio.Queue[Any]") -> None:
    """The trainer's side of a stream: what it yields, then None or its error."""
    runtime_context.CURRENT.set(runtime_context.Call(method=method))
    try:
        async for response in getattr(trainer.service.servicer, method)(request, None):
            sent = isinstance(response, SerializedReply)
            await queue.put(event_log_pb2.WatchJobResponse.FromString(response.content) if sent else response)
    except Exception as error:  # noqa: BLE001 - it is the answer
        await queue.put(error)
    else:
        await queue.put(None)
