# SPDX-License-Identifier: Apache-2.0
"""WorkerService: the service's end of every worker's stream, on a socket that only this user can reach."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from finetree_api.worker.v1 import worker_pb2, worker_pb2_grpc
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import DomainError, FailedPrecondition, NotFound, Unauthenticated, to_status
from finetree_runtime.server.logging import get_logger
from finetree_runtime.server.tls import ServerCertificates
from grpc import aio
from grpc_status import rpc_status

from finetree_trainer.clock import duration
from finetree_trainer.joblog.ingest import EventGapError
from finetree_trainer.joblog.log import EventLog, FencedError
from finetree_trainer.layout import Layout
from finetree_trainer.settings import Settings
from finetree_trainer.store import attempts
from finetree_trainer.worker_user import WorkerUser, passage
from finetree_trainer.workers.session import Session, Worker, token_hash
from finetree_trainer.workers.supervisor import Supervisor

PROTOCOL_VERSION = 1
"""Version of the Attach protocol that this service speaks."""

OLDEST_PROTOCOL_VERSION = 1
"""Oldest version that it takes: workers that the previous release has started outlive its upgrade. When
PROTOCOL_VERSION is raised, this one follows a release later (docs/decisions/0057)."""

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message: a batch of events."""

RETRY_SECONDS = 1.0
"""Pause before events that the store refused are written again; the worker keeps them meanwhile."""

_Context = aio.ServicerContext[worker_pb2.AttachRequest, worker_pb2.AttachResponse]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Serves workers' streams. `on_profile` is called with the matrix rates that an idle worker has measured."""

    def __init__(
        self,
        supervisor: Supervisor,
        log: EventLog,
        settings: Settings,
        *,
        on_profile: Callable[[worker_pb2.HostProfile], Awaitable[None]],
    ) -> None:
        self._supervisor, self._log, self._settings, self._on_profile = supervisor, log, settings, on_profile

    async def Attach(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[worker_pb2.AttachRequest], context: _Context
    ) -> AsyncIterator[worker_pb2.AttachResponse]:
        """Serve one stream of a worker, from its Hello on."""
        hello = (await anext(request_iterator)).hello
        if not OLDEST_PROTOCOL_VERSION <= hello.protocol_version <= PROTOCOL_VERSION:
            text = f"This service has version {PROTOCOL_VERSION} of the protocol, the worker {hello.protocol_version}."
            await _abort(context, FailedPrecondition("PROTOCOL_VERSION_MISMATCH", text))
        try:
            worker, welcome = await self._welcome(hello)
        except FencedError as fenced:
            yield worker_pb2.AttachResponse(fenced=worker_pb2.Fenced(current_attempt=fenced.current_attempt))
            return
        if worker is None:
            await _abort(context, Unauthenticated("WORKER_TOKEN_INVALID", "This service does not know the worker."))
        yield worker_pb2.AttachResponse(welcome=welcome)
        session = Session()
        self._supervisor.on_attach(worker, session)
        reader = asyncio.ensure_future(self._read(request_iterator, worker, session))
        try:
            while not session.closed:
                for message in await session.next_messages(self._settings.worker_heartbeat / 2):
                    yield message
        finally:
            reader.cancel()
            worker.detach(session)

    async def _welcome(self, hello: worker_pb2.Hello) -> tuple[Worker | None, worker_pb2.Welcome]:
        welcome = worker_pb2.Welcome(
            heartbeat_interval=duration(self._settings.worker_heartbeat),
            orphan_grace=duration(self._settings.orphan_grace),
        )
        if not hello.job:
            worker = self._supervisor.worker_with_token(hello.token)
            if worker is not None and hello.HasField("resting"):
                worker = await self._supervisor.rest(worker, hello.resting)
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
                with worker.heard():
                    await self._handle(request, worker, session)
        except FencedError as fenced:
            session.send(worker_pb2.AttachResponse(fenced=worker_pb2.Fenced(current_attempt=fenced.current_attempt)))
            await asyncio.sleep(RETRY_SECONDS)
        except EventGapError as gap:
            get_logger().warning("worker_event_gap", job=worker.job, attempt=worker.attempt, gap=str(gap))
        except (aio.AioRpcError, aio.UsageError):
            pass  # the stream broke; the worker attaches again
        finally:
            session.close()

    async def _handle(self, request: worker_pb2.AttachRequest, worker: Worker, session: Session) -> None:
        match request.WhichOneof("message"):
            case "events":
                session.acknowledge(await self._ingest(worker, request.events))
            case "heartbeat":
                await self._record_heartbeat(worker)
            case "serving":
                session.exchange.receive(request.serving)
            case "host_profile":
                await self._on_profile(request.host_profile)

    async def _ingest(self, worker: Worker, batch: worker_pb2.WorkerEventBatch) -> int:
        """Log a batch. While the store cannot (a full disk), the worker gets no acknowledgement and trains on."""
        while True:
            try:
                return await self._supervisor.ingest(worker.job, worker.attempt, batch)
            except NotFound:
                raise FencedError(0) from None
            except DomainError as refusal:
                get_logger().error("events_not_stored", job=worker.job, reason=refusal.reason)
                await asyncio.sleep(RETRY_SECONDS)

    async def _record_heartbeat(self, worker: Worker) -> None:
        if worker.job:
            uid, attempt, now = worker.job, worker.attempt, self._log.clock()
            with suppress(DomainError):  # not worth a retry: the next one comes
                await self._log.store.write(
                    lambda connection: attempts.record_heartbeat(connection, uid, attempt, now=now)
                )


async def serve(servicer: WorkerServicer, layout: Layout, settings: Settings) -> aio.Server:
    """Listen on the workers' socket, whose folder only this user can enter, and the user of the workers, if any.

    Where workers run on a cluster, also on the address for them, by TLS where there is a certificate. One of several
    replicas listens on a socket of its own, to which it leads a link in the place of that one: a replica that still
    ends removes its own alone.

    Raises PermissionError when the folder belongs to another user, SettingsError ADDRESS_UNAVAILABLE.
    """
    socket = layout.worker_socket
    if socket.parent.exists() and socket.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{socket.parent} belongs to another user")
    passage(socket.parent, layout.user)
    options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
    server = aio.server(options=options)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)
    if socket.is_symlink():
        socket.unlink()  # gRPC removes an old socket, and no link to one that is gone
    bound = socket.with_name(f"{secrets.token_hex(3)}.sock") if settings.replica_address else socket
    server.add_insecure_port(f"unix:{bound}")
    if settings.launcher == "ray":
        try:
            _listen(server, settings)
        except RuntimeError:
            text = f"worker_address: {settings.worker_address} cannot be listened on"
            raise SettingsError("ADDRESS_UNAVAILABLE", text) from None
    await server.start()
    await asyncio.to_thread(_admit, bound, layout.user)
    if bound != socket:
        await asyncio.to_thread(_lead_to, bound, socket)
    return server


def _lead_to(bound: Path, socket: Path) -> None:
    """Have workers that attach to the one socket find the other, and remove those of replicas before."""
    link = bound.with_suffix(".link")
    link.symlink_to(bound.name)
    link.replace(socket)
    for other in socket.parent.glob("*.sock"):
        if other not in (bound, socket):
            other.unlink(missing_ok=True)


def _listen(server: aio.Server, settings: Settings) -> None:
    if settings.tls_cert is None or settings.tls_key is None:
        server.add_insecure_port(settings.worker_address)
        return
    # A worker shows the secret of its attempt, no certificate.
    certificates = ServerCertificates(settings.tls_cert, settings.tls_key, None)
    server.add_secure_port(settings.worker_address, certificates.credentials())


def _admit(socket: Path, user: WorkerUser | None) -> None:
    """Let workers connect to the socket, and nobody else: to connect is to write."""
    if user is not None:
        os.chown(socket, -1, user.gid)
    socket.chmod(0o600 if user is None else 0o660)


async def _abort(context: _Context, error: DomainError) -> NoReturn:
    """End a stream with an error and its ErrorInfo."""
    status = rpc_status.to_status(to_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)
