# SPDX-License-Identifier: Apache-2.0
"""Workers as the supervisor knows them: a process, its task, and the stream by which it is attached."""

import asyncio
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from finetree_api.worker.v1 import worker_pb2

from finetree_trainer.scheduling.devices import Slot
from finetree_trainer.scheduling.memory import WorkerProcess
from finetree_trainer.store.attempts import AttemptRow
from finetree_trainer.workers.exchange import Exchange
from finetree_trainer.workers.launch.launcher import LaunchedProcess


def new_token() -> str:
    """Make a secret for a worker or an attempt."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """The SHA-256 of a secret: all that is stored of it."""
    return hashlib.sha256(token.encode()).hexdigest()


class Session:
    """One attached stream, from the service's side: the messages to send, and the newest acknowledgement."""

    def __init__(self) -> None:
        self._messages: list[worker_pb2.AttachResponse] = []
        self._acknowledged = -1
        self._ready = asyncio.Event()
        self.closed = False
        self.exchange = Exchange(self.send)
        """Requests to a serving worker, which live and die with the stream."""

    def send(self, message: worker_pb2.AttachResponse) -> None:
        """Queue a message for the worker."""
        self._messages.append(message)
        self._ready.set()

    def acknowledge(self, worker_seq: int) -> None:
        """Tell the worker up to which number its events are in the log."""
        self._acknowledged = max(self._acknowledged, worker_seq)
        self._ready.set()

    def close(self) -> None:
        """End the stream."""
        self.closed = True
        self.exchange.close()
        self._ready.set()

    async def next_messages(self, seconds: float) -> list[worker_pb2.AttachResponse]:
        """Wait for messages to send; a heartbeat after so many seconds without any."""
        try:
            await asyncio.wait_for(self._ready.wait(), seconds)
        except TimeoutError:
            return [worker_pb2.AttachResponse(heartbeat=worker_pb2.ServiceHeartbeat())]
        self._ready.clear()
        messages, self._messages = self._messages, []
        if self._acknowledged >= 0:
            acknowledge = worker_pb2.Acknowledge(acknowledged=self._acknowledged)
            messages.append(worker_pb2.AttachResponse(acknowledge=acknowledge))
            self._acknowledged = -1
        return messages


@dataclass(frozen=True, slots=True)
class Rest:
    """What a worker that has ended an attempt holds for the next one.

    `base` names what it has loaded, `slots` are those of the attempt, `until` is when it ends, microseconds since 1970.
    """

    base: str
    slots: tuple[Slot, ...]
    memory_bytes: int
    until: int


@dataclass(slots=True)
class Worker:
    """A worker process. `job` and `attempt` are empty and `task` is None while it waits for work.

    `process` is None for a worker of an earlier run of the service of which nothing is known.
    """

    id: str
    token_hash: str
    process: LaunchedProcess | None
    job: str = ""
    attempt: int = 0
    slots: tuple[Slot, ...] = ()
    task: worker_pb2.Task | None = None
    reach: Mapping[str, bool] = field(default_factory=dict)
    """What it may connect to, as `WorkerConfinement.reach` says of the task that it was started for."""
    starting: bool = False
    """Whether an attempt is being begun for it. Stays True where the service stops meanwhile: the attempt may be in the
    log by then, and the next run of the service finds the worker by it."""
    session: Session | None = None
    attached: asyncio.Event = field(default_factory=asyncio.Event)
    termination: "asyncio.Task[None] | None" = None
    """What ends the process by force, where it was told to end or is done."""
    asked: worker_pb2.CommandKind.ValueType = worker_pb2.COMMAND_KIND_UNSPECIFIED
    """PAUSE or FINISH, where it was told so: it saves what it has and ends."""
    cancelled: bool = False
    save_on_cancel: bool = False
    may_rest: bool = True
    """Whether it may wait for another job when this one has ended well."""
    done: bool = False
    """Whether its outcome is in the log: nothing of it is needed any more."""
    adopted: bool = False
    """Whether an earlier run of the service started it: it is not loading its libraries, and must attach soon."""
    handling: bool = False
    """Whether a message of it is being handled now."""
    silent: int = 0
    still: int = 0
    """Checks in a row without a message of it, and without progress of its process."""
    activity: tuple[int, ...] | None = None
    """What its process had done at the last check."""
    rest: Rest | None = None
    """What it holds of an attempt before; None for one that had none."""
    closing: bool = False
    """Whether that attempt is being closed: no other one is begun for it till then."""

    @classmethod
    def adopt(cls, row: AttemptRow, process: LaunchedProcess | None, node: str) -> "Worker":
        """Make the worker of an attempt that an earlier run of the service has begun.

        `node`: the name of this machine, which may have had another one then; "" where its name stays.
        """
        slots = tuple(replace(slot, node=node or slot.node) for slot in map(Slot.parse, row.slots.split(",")))
        return cls(
            row.worker,
            row.worker_token_hash,
            process,
            job=row.job_uid,
            attempt=row.attempt,
            slots=slots,
            adopted=True,
            may_rest=False,
        )

    @property
    def resting(self) -> bool:
        """Whether it waits between two attempts."""
        alive = self.process is not None and not self.process.dead.is_set()
        return alive and self.rest is not None and not (self.job or self.starting or self.closing or self.done)

    @property
    def expected(self) -> bool:
        """Whether it has a stream, or had one, and so must be heard of."""
        return self.adopted or self.attached.is_set()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Note a message of the worker, which is handled in the block."""
        self.handling = True
        try:
            yield
        finally:
            self.handling = False
            self.silent = self.still = 0

    def attach(self, session: Session) -> None:
        """Take a stream as the worker's; an older one is closed, since a worker has one at a time."""
        if self.session is not None:
            self.session.close()
        self.session = session
        self.silent = self.still = 0
        self.attached.set()

    def detach(self, session: Session) -> None:
        """Drop a stream that has ended, unless a newer one has taken its place."""
        if self.session is session:
            self.session = None

    def send(self, message: worker_pb2.AttachResponse) -> None:
        """Send a message, if the worker is attached now."""
        if self.session is not None:
            self.session.send(message)


def process_of(worker: Worker) -> WorkerProcess | None:
    """The process of a worker that lives, for who wants to know what it holds; None for one that does not."""
    if worker.process is None or worker.process.dead.is_set():
        return None
    slots = worker.slots or (worker.rest.slots if worker.rest is not None else ())
    resting = worker.rest is not None and not worker.job
    return WorkerProcess(worker.process.pid, worker.job, resting, tuple(slot.device for slot in slots))
