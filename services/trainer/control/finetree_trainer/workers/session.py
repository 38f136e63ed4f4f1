# SPDX-License-Identifier: Apache-2.0
"""Workers as the supervisor knows them: a process, what it was given, and the stream that it is attached by."""

import asyncio
import hashlib
import secrets
from dataclasses import dataclass, field

from finetree_api.trainer.v1 import worker_pb2

from finetree_trainer.workers.process import Process


def new_token() -> str:
    """A secret for a worker or an attempt."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(token.encode()).hexdigest()


class Session:
    """One attached stream, from our side: what has to be said to the worker, newest acknowledgement only."""

    def __init__(self) -> None:
        self._messages: list[worker_pb2.AttachResponse] = []
        self._acknowledged = -1
        self._news = asyncio.Event()
        self.closed = False

    def send(self, message: worker_pb2.AttachResponse) -> None:
        """Say something to the worker."""
        self._messages.append(message)
        self._news.set()

    def acknowledge(self, worker_seq: int) -> None:
        """Tell the worker up to where its events are in the log."""
        self._acknowledged = max(self._acknowledged, worker_seq)
        self._news.set()

    def close(self) -> None:
        """End the stream."""
        self.closed = True
        self._news.set()

    async def next(self, seconds: float) -> list[worker_pb2.AttachResponse]:
        """What is to be said now; a sign of life after so many seconds in which there was nothing."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return [worker_pb2.AttachResponse(heartbeat=worker_pb2.ServiceHeartbeat())]
        self._news.clear()
        messages, self._messages = self._messages, []
        if self._acknowledged >= 0:
            acknowledge = worker_pb2.Acknowledge(acknowledged=self._acknowledged)
            messages.append(worker_pb2.AttachResponse(acknowledge=acknowledge))
            self._acknowledged = -1
        return messages


@dataclass(slots=True)
class Worker:
    """A worker. `job` and `attempt` are empty while it waits; `task` is what it was given."""

    id: str
    token_hash: str
    process: Process | None
    job: str = ""
    attempt: int = 0
    slot: str = ""
    task: worker_pb2.Task | None = None
    session: Session | None = None
    attached: asyncio.Event = field(default_factory=asyncio.Event)
    ending: "asyncio.Task[None] | None" = None
    save_on_cancel: bool = False
    done: bool = False
    """Whether its outcome is in the log: nothing of it is needed any more."""

    def join(self, session: Session) -> None:
        """Attach a stream; an older one is closed, since a worker has one voice."""
        if self.session is not None:
            self.session.close()
        self.session = session
        self.attached.set()

    def leave(self, session: Session) -> None:
        """Detach a stream, unless a newer one has taken its place."""
        if self.session is session:
            self.session = None

    def send(self, message: worker_pb2.AttachResponse) -> None:
        """Say something, if the worker is attached now."""
        if self.session is not None:
            self.session.send(message)
