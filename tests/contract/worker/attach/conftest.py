# SPDX-License-Identifier: Apache-2.0
"""A real WorkerService on a Unix socket, which a test may cut, silence or make refuse; and streams that join it."""

import asyncio
import contextlib
import queue
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2, worker_pb2_grpc
from finetree_worker.attach.commands import Commands
from finetree_worker.attach.identity import Identity, Timing
from finetree_worker.attach.stream import ServiceStream
from finetree_worker.events.journal import Journal
from google.protobuf.duration_pb2 import Duration

TIMING = Timing(heartbeat=5, orphan_grace=30, batch_delay=0.005, first_backoff=0.005, longest_backoff=0.02)


def seconds(value):
    return Duration(seconds=int(value), nanos=int(value % 1 * 1e9))


@dataclass
class Service(worker_pb2_grpc.WorkerServiceServicer):
    """Stores what comes in order; each thing that may go wrong is a field."""

    beat: float = 5.0
    grace: float = 30.0
    task: worker_pb2.Task | None = None
    abort: grpc.StatusCode | None = None
    fence: int = 0
    silent: bool = False
    acknowledges: bool = True
    cuts: list[tuple[int, bool]] = field(default_factory=list)
    """For each of the first streams: messages until it is cut, and whether the last of them is lost on its way."""
    hellos: list[worker_pb2.Hello] = field(default_factory=list)
    beats: list[worker_pb2.WorkerHeartbeat] = field(default_factory=list)
    profiles: list[worker_pb2.HostProfile] = field(default_factory=list)
    stored: list[worker_pb2.WorkerEvent] = field(default_factory=list)
    replies: list[worker_pb2.ServingReply] = field(default_factory=list)
    batches: int = 0
    repeated: int = 0
    clean_ends: int = 0
    problems: list[str] = field(default_factory=list)
    down: asyncio.Queue[worker_pb2.AttachResponse] = field(default_factory=asyncio.Queue)

    async def Attach(self, request_iterator, context):  # noqa: N802 - the rpc's name
        requests = aiter(request_iterator)
        self.hellos.append((await anext(requests)).hello)
        if self.abort is not None:
            await context.abort(self.abort, "not here")
        if self.fence:
            yield worker_pb2.AttachResponse(fenced=worker_pb2.Fenced(current_attempt=self.fence))
            return
        yield worker_pb2.AttachResponse(welcome=self.welcome())
        reading = asyncio.create_task(self.read(requests, self.cuts.pop(0) if self.cuts else None))
        try:
            while not reading.done():
                with contextlib.suppress(TimeoutError):
                    yield await asyncio.wait_for(self.down.get(), 0.01)
            if reading.result() == "cut":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            while not self.down.empty():
                yield self.down.get_nowait()
            self.clean_ends += 1
        finally:
            reading.cancel()

    def welcome(self):
        welcome = worker_pb2.Welcome(acknowledged=len(self.stored), task=self.task)
        welcome.heartbeat_interval.CopyFrom(seconds(self.beat))
        welcome.orphan_grace.CopyFrom(seconds(self.grace))
        return welcome

    async def read(self, requests, cut):
        count = 0
        async for request in requests:
            count += 1
            if cut is None or count < cut[0]:
                self.take(request)
                continue
            if not cut[1]:
                self.take(request)
            return "cut"
        return "end"

    def take(self, request):
        match request.WhichOneof("message"):
            case "events":
                self.store(request.events.events)
            case "heartbeat":
                self.beats.append(request.heartbeat)
                if not self.silent:
                    self.send(heartbeat=worker_pb2.ServiceHeartbeat())
            case "host_profile":
                self.profiles.append(request.host_profile)
            case "serving":
                self.replies.append(request.serving)
            case other:
                self.problems.append(f"unexpected {other}")

    def store(self, batch):
        self.batches += 1
        for event in batch:
            if event.worker_seq > len(self.stored) + 1:
                self.problems.append(f"{event.worker_seq} after {len(self.stored)}")
            elif event.worker_seq == len(self.stored) + 1:
                self.stored.append(event)
            else:
                self.repeated += 1
        if self.acknowledges:
            self.send(acknowledge=worker_pb2.Acknowledge(acknowledged=len(self.stored)))

    def send(self, **message):  # noqa: ANN003 - a field of AttachResponse
        self.down.put_nowait(worker_pb2.AttachResponse(**message))

    def command(self, kind, **fields):  # noqa: ANN003 - fields of Command
        self.send(command=worker_pb2.Command(kind=worker_pb2.CommandKind.Value(f"COMMAND_KIND_{kind}"), **fields))


@dataclass
class Joined:
    """A stream and what it has told its process."""

    stream: ServiceStream
    commands: Commands
    journal: Journal
    tasks: "queue.SimpleQueue[worker_pb2.Task | None]" = field(default_factory=queue.SimpleQueue)
    refusals: list[str] = field(default_factory=list)

    def bind(self) -> None:
        self.stream.bind(self.journal)

    def write(self, count: int) -> None:
        """Append so many log lines."""
        for _ in range(count):
            text = f"line {self.journal.last_seq + 1}"
            event = event_pb2.JobEvent(log_line=event_pb2.LogLine(text=text))
            self.journal.append([worker_pb2.WorkerEvent(event=event)], durable=False)
            self.stream.wake()

    async def task(self) -> worker_pb2.Task | None:
        return await asyncio.to_thread(self.tasks.get, timeout=60)

    async def drain(self) -> bool:
        return await asyncio.to_thread(self.stream.drain)


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def socket():
    # pytest's own folders are longer than the 107 bytes that a socket's path may have.
    with tempfile.TemporaryDirectory(prefix="ft") as folder:
        yield f"unix:{folder}/s"


@pytest.fixture
async def serve(service, socket):
    """Start the service; called again after the server it returned was stopped, it is the restarted service."""
    servers = []

    async def start() -> grpc.aio.Server:
        server = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server)
        server.add_insecure_port(socket)
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop(0)


@pytest.fixture
async def join(socket, tmp_path):
    """Start a stream to the service."""
    joined = []

    def start(
        kind=job_pb2.TASK_KIND_TRAIN,
        job="projects/p/jobs/j",
        attempt=3,
        timing=TIMING,
        *,
        address=socket,
        authority=b"",
    ) -> Joined:
        commands, tasks, refusals = Commands(), queue.SimpleQueue(), []
        journal = Journal(tmp_path / f"work-{len(joined)}")
        identity = Identity(kind, "first-token", "1.0", "boot", "node", job, attempt)
        stream = ServiceStream(
            address,
            identity,
            commands,
            on_task=tasks.put,
            on_refused=refusals.append,
            timing=timing,
            authority=authority,
        )
        joined.append(Joined(stream, commands, journal, tasks, refusals))
        stream.start()
        return joined[-1]

    yield start
    for worker in joined:
        await asyncio.to_thread(worker.stream.close)
        worker.journal.close()


@pytest.fixture
def until():
    """Wait for a condition, ten seconds at most."""

    async def wait(condition: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(60):
                while not condition():  # noqa: ASYNC110 - the condition is another thread's doing
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"waited in vain for: {what}")

    return wait
