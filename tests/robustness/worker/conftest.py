# SPDX-License-Identifier: Apache-2.0
"""A trainer reduced to its worker stream, real worker processes, and tasks for them."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.worker.v1 import worker_pb2, worker_pb2_grpc
from google.type import money_pb2

SCRIPT = Path(__file__).with_name("scripted_worker.py")


@dataclass
class Trainer(worker_pb2_grpc.WorkerServiceServicer):
    """Hands out one task, stores the events of its attempt in order."""

    address: str
    task: worker_pb2.Task
    grace: int = 30
    stored: list[worker_pb2.WorkerEvent] = field(default_factory=list)
    hellos: list[worker_pb2.Hello] = field(default_factory=list)
    profiles: list[worker_pb2.HostProfile] = field(default_factory=list)
    down: "asyncio.Queue[worker_pb2.AttachResponse | None]" = field(default_factory=asyncio.Queue)
    server: grpc.aio.Server | None = None

    async def start(self):
        self.server = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self.server)
        self.server.add_insecure_port(self.address)
        await self.server.start()

    async def stop(self):
        if self.server is not None:
            await self.server.stop(0)

    async def Attach(self, request_iterator, context):  # noqa: ARG002, N802 - the rpc's name and arguments
        requests = aiter(request_iterator)
        self.hellos.append((await anext(requests)).hello)
        welcome = worker_pb2.Welcome(acknowledged=len(self.stored))
        welcome.heartbeat_interval.seconds, welcome.orphan_grace.seconds = 2, self.grace
        if self.hellos[-1].job:
            welcome.task.CopyFrom(self.task)
        yield worker_pb2.AttachResponse(welcome=welcome)
        self.down = asyncio.Queue()
        reading = asyncio.create_task(self.read(requests))
        try:
            while (message := await self.down.get()) is not None:
                yield message
        finally:
            reading.cancel()

    async def read(self, requests):
        try:
            async for request in requests:
                if request.HasField("host_profile"):
                    self.profiles.append(request.host_profile)
                for event in request.events.events:
                    assert event.worker_seq <= len(self.stored) + 1, "a gap"
                    if event.worker_seq == len(self.stored) + 1:
                        self.stored.append(event)
                if request.HasField("events"):
                    self.send(acknowledge=worker_pb2.Acknowledge(acknowledged=len(self.stored)))
                else:
                    self.send(heartbeat=worker_pb2.ServiceHeartbeat())
        finally:
            self.down.put_nowait(None)

    def send(self, **message):  # noqa: ANN003 - a field of AttachResponse
        self.down.put_nowait(worker_pb2.AttachResponse(**message))

    def command(self, kind, **fields):  # noqa: ANN003 - fields of Command
        self.send(command=worker_pb2.Command(kind=worker_pb2.CommandKind.Value(f"COMMAND_KIND_{kind}"), **fields))

    @property
    def outcome(self) -> worker_pb2.TaskOutcome | None:
        last = self.stored[-1] if self.stored else None
        return last.outcome if last is not None and last.HasField("outcome") else None

    @property
    def steps(self) -> list[int]:
        return [e.event.step_metrics.step for e in self.stored if e.event.HasField("step_metrics")]

    async def until(self, condition, what):
        """Wait for a condition, twenty seconds at most."""
        try:
            async with asyncio.timeout(60):
                while not condition():  # noqa: ASYNC110 - the condition is another process's doing
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"waited in vain for: {what}")


@pytest.fixture
def work_dir(tmp_path):
    return tmp_path / "work"


@pytest.fixture
async def trainer(tmp_path, work_dir):
    """A trainer that is not started yet; its task runs the script that the test writes with `script`."""
    task = worker_pb2.Task(
        job="projects/p/jobs/j",
        attempt=2,
        token="attempt-token",
        train=job_pb2.TrainTask(),
        placements=[job_pb2.Placement(node="node-1", device_ids=["cpu"])],
        threads=1,
        folders=worker_pb2.TaskFolders(work_dir=str(work_dir), artifact_dir=str(tmp_path / "artifacts")),
        dataset_file=str(tmp_path / "script.json"),
        plan_digest="sha256:1",
        hourly_price=money_pb2.Money(units=3600, currency_code="EUR"),
    )
    # pytest's own folders are longer than the 107 bytes that a socket's path may have.
    with tempfile.TemporaryDirectory(prefix="ft") as folder:
        built = Trainer(f"unix:{folder}/s", task)
        yield built
        await built.stop()


@pytest.fixture
def script(tmp_path):
    def write(**content) -> None:  # noqa: ANN003 - keys of the script
        (tmp_path / "script.json").write_text(json.dumps(content))

    return write


@pytest.fixture
async def spawn(trainer):
    """Start a worker process that leads its own group, as the trainer does."""
    started = []

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SCRIPT),
            f"--socket={trainer.address}",
            *(arguments or ("--job=projects/p/jobs/j", "--attempt=2")),
            env=os.environ | {"FINETREE_WORKER_TOKEN": "first-token"},
            start_new_session=True,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
