# SPDX-License-Identifier: Apache-2.0
"""WorkerService: the other end of every worker's stream, on a socket that only this user can reach."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import worker_pb2, worker_pb2_grpc
from finetree_runtime.errors import DomainError, NotFound
from finetree_runtime.server.logging import get_logger
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode, aio

from finetree_trainer.joblog.ingest import EventGapError
from finetree_trainer.joblog.log import EventLog, FencedError
from finetree_trainer.settings import Settings
from finetree_trainer.store import attempts
from finetree_trainer.store.database import private_folder
from finetree_trainer.workers.session import Session, Worker, token_hash
from finetree_trainer.workers.supervisor import Supervisor

PROTOCOL_VERSION = 1
"""Version of the Attach protocol that this service speaks."""

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest batch of events."""

RETRY_SECONDS = 1.0
"""Pause before events that the store refused are offered to it again; the worker keeps them meanwhile."""

_Context = aio.ServicerContext[worker_pb2.AttachRequest, worker_pb2.AttachResponse]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Serves workers' streams. `profiled` is told what a waiting worker has measured."""

    def __init__(
        self,
        supervisor: Supervisor,
        log: EventLog,
        settings: Settings,
        profiled: Callable[[worker_pb2.HostProfile], Awaitable[None]],
    ) -> None:
        self._supervisor, self._log, self._settings, self._profiled = supervisor, log, settings, profiled

    async def Attach(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[worker_pb2.AttachRequest], context: _Context
    ) -> AsyncIterator[worker_pb2.AttachResponse]:
        """One stream of a worker, from its Hello on."""
        hello = (await anext(request_iterator)).hello
        if hello.protocol_version != PROTOCOL_VERSION:
            await context.abort(
                StatusCode.FAILED_PRECONDITION, f"PROTOCOL_VERSION: this service speaks {PROTOCOL_VERSION}"
            )
        try:
            worker, welcome = await self._welcome(hello)
        except FencedError as fenced:
            yield worker_pb2.AttachResponse(fenced=worker_pb2.Fenced(current_attempt=fenced.current_attempt))
            return
        if worker is None:
            await context.abort(
                StatusCode.UNAUTHENTICATED, "WORKER_TOKEN_INVALID: this service does not know this worker"
            )
        yield worker_pb2.AttachResponse(welcome=welcome)
        session = Session()
        self._supervisor.joined(worker, session)
        reader = asyncio.ensure_future(self._read(request_iterator, worker, session))
        try:
            while not session.closed:
                for message in await session.next(self._settings.worker_heartbeat / 2):
                    yield message
        finally:
            reader.cancel()
            worker.leave(session)

    async def _welcome(self, hello: worker_pb2.Hello) -> tuple[Worker | None, worker_pb2.Welcome]:
        welcome = worker_pb2.Welcome(
            heartbeat_interval=_duration(self._settings.worker_heartbeat),
            orphan_grace=_duration(self._settings.orphan_grace),
        )
        if hello.task_kind == worker_pb2.TASK_KIND_IDLE:
            worker = self._supervisor.idle_worker(hello.token)
            task = await self._supervisor.task_for(worker) if worker is not None else None
            if task is not None:
                welcome.task.CopyFrom(task)
            return worker, welcome
        uid = hello.job.rpartition("/")[2]
        row = await self._log.store.read(lambda connection: attempts.load(connection, uid, hello.attempt))
        if row is None or row.token_hash != token_hash(hello.token):
            return None, welcome
        job = await self._log.row(uid)
        worker = self._supervisor.worker_of(uid, hello.attempt)
        if job.attempt != hello.attempt or row.ended or worker is None:
            raise FencedError(job.attempt)
        welcome.acknowledged = row.acknowledged
        return worker, welcome

    async def _read(self, requests: AsyncIterator[worker_pb2.AttachRequest], worker: Worker, session: Session) -> None:
        try:
            async for request in requests:
                match request.WhichOneof("message"):
                    case "events":
                        session.acknowledge(await self._store(worker, request.events))
                    case "heartbeat":
                        await self._beat(worker)
                    case "host_profile":
                        await self._profiled(request.host_profile)
        except FencedError as fenced:
            session.send(worker_pb2.AttachResponse(fenced=worker_pb2.Fenced(current_attempt=fenced.current_attempt)))
            await asyncio.sleep(RETRY_SECONDS)
        except EventGapError as gap:
            get_logger().warning("worker_event_gap", job=worker.job, attempt=worker.attempt, gap=str(gap))
        except (aio.AioRpcError, aio.UsageError):
            pass  # the stream broke; the worker attaches again
        finally:
            session.close()

    async def _store(self, worker: Worker, batch: worker_pb2.WorkerEventBatch) -> int:
        """Log a batch. While the store cannot take it (a full disk), the worker waits unacknowledged, and trains on."""
        while True:
            try:
                return await self._supervisor.take(worker.job, worker.attempt, batch)
            except NotFound:
                raise FencedError(0) from None
            except DomainError as refusal:
                get_logger().error("events_not_stored", job=worker.job, reason=refusal.reason)
                await asyncio.sleep(RETRY_SECONDS)

    async def _beat(self, worker: Worker) -> None:
        if worker.job:
            uid, attempt, now = worker.job, worker.attempt, self._log.clock()
            with suppress(DomainError):  # a sign of life is worth no retry: the next one comes
                await self._log.store.write(lambda connection: attempts.beat(connection, uid, attempt, now=now))


def socket_path(data_dir: Path) -> Path:
    """Where workers attach: the same path after a restart, in a folder of ours alone, short enough for a socket.

    A socket's path may have 107 bytes (`sun_path`), which a deep data folder exceeds.
    """
    path = data_dir.resolve() / "run" / "worker.sock"
    if len(os.fsencode(path)) > 100:
        digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"finetree-{os.getuid()}-{digest}" / "worker.sock"
    private_folder(path.parent)
    if path.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{path.parent} belongs to another user")
    return path


async def serve(servicer: WorkerServicer, path: Path) -> aio.Server:
    """Listen on the workers' socket."""
    options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
    server = aio.server(options=options)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    await asyncio.to_thread(path.chmod, 0o600)
    return server


def _duration(seconds: float) -> Duration:
    value = Duration()
    value.FromNanoseconds(int(seconds * 1e9))
    return value
