# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - a process of others sets no event
"""Clients that work with a trainer while it is killed again and again, and write down what they saw.

The service and its workers are the shipped programs; a client that meets a dead service waits for the next one and says
the same again, as the SDK does.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import select
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from campaign.arming import FOLDER, put
from campaign.history import Created, History, Look, Read, violations
from finetree_api.trainer.v1 import artifact_pb2, dataset_pb2, event_log_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_api.trainer.v1 import trainer_pb2_grpc as rpc
from finetree_data.fail_points import POINTS, VARIABLE
from preloaded import Preloaded, Starter
from trainer_harness import OPTIONS, Talker, job_request, jsonl, options_of

T = TypeVar("T")
_WORKER_ROOMS = {"journal", "folder", "checkpoint", "artifact", "outcome"}
OF_WORKER = [name for name in POINTS if name.partition(".")[0] in _WORKER_ROOMS]
OF_BACKUP = [name for name in POINTS if name.startswith(("backup.", "restore.", "move."))]
"""Places in programs of their own (tests/robustness/trainer/test_backup.py, test_move_of_the_database.py)."""
OF_DELETION = [name for name in POINTS if name.startswith(("deletion.", "keeping."))]
"""Places that are passed where a job or a checkpoint is deleted or kept (test_kills_while_deleting.py)."""
OF_SERVICE = [name for name in POINTS if name not in (*OF_WORKER, *OF_BACKUP, *OF_DELETION)]
OFTEN = {"store.before_commit": 12, "store.after_commit": 12, "log.before_publish": 12, "ingest.before_acknowledge": 4}
"""Places that are passed all the time: the campaign ends the process at one of the first so many passes."""
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN}
CUT = "Internal error from Core"
"""What gRPC's own client says, with INTERNAL, of a message whose connection goes as it is sent."""


@contextlib.contextmanager
def broken_off(*codes: str) -> Iterator[None]:
    """Let pass what a call meets whose service dies, or whose channel is closed with it; and these codes.

    grpc.aio cancels such a call, and with it whoever awaits it: that is no request to end.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() not in AWAY and error.code().name not in codes and error.details() != CUT:
            raise
    except (TimeoutError, asyncio.InvalidStateError, grpc.aio.UsageError):
        pass
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise


class Service:
    """The trainer's process, and whoever waits for it."""

    def __init__(self, folder: Path, trainer: Preloaded, worker: Preloaded, **changes: object) -> None:
        settings = {"system_retries": 99, "log_level": "warning", "cancel_grace": 5.0} | changes
        self.folder, self.trainer = folder, trainer
        self.options = options_of(folder, {}, **settings | {"worker_command": worker.command})
        self.pid, self.starts = 0, 0
        self.output = folder / "service.log"
        self.channel: grpc.aio.Channel | None = None
        self._ready = asyncio.Event()
        self.talk: Talker | None = None

    async def start(self, point: str = "") -> bool:
        """Start the service, armed at a fail point; return whether it got as far as to serve."""
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        flags = [f"--{key.replace('_', '-')}={_text(value)}" for key, value in self.options.items() if key != "prewarm"]
        with self.output.open("ab") as output:
            environment = dict(os.environ) | {VARIABLE: point}
            arguments = ["finetree_trainer", *flags, "--no-prewarm", f"--ready-file={ready}"]
            files = (output.fileno(), output.fileno())
            self.process = Starter(self.trainer.path, arguments, files, environment=environment)
        self.pid, self.starts = self.process.pid, self.starts + 1
        self._died = os.pidfd_open(self.pid)
        async with asyncio.timeout(240):  # one of a cluster connects first
            while not ready.exists():
                if self.dead:
                    return False
                await asyncio.sleep(0.01)
        address = json.loads(ready.read_text())["address"]
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self.talk = Talker(rpc.TrainerServiceStub(self.channel))
        self._ready.set()
        return True

    @property
    def dead(self) -> bool:
        """Whether the process has ended."""
        return bool(select.select([self._died], [], [], 0)[0])

    async def death(self, seconds: float) -> bool:
        """Wait for the end of the process; return whether it came."""
        deadline = time.monotonic() + seconds
        while not self.dead and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return self.dead

    async def kill(self) -> None:
        """Kill the process unless it has ended, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await self.gone()

    async def gone(self) -> None:
        """Put away what belongs to a process that has ended."""
        assert await self.death(10)
        os.close(self._died)
        self.process.close()
        self._ready.clear()
        if self.channel is not None:
            channel, self.channel, self.talk = self.channel, None, None
            await channel.close()

    async def up(self) -> Talker:
        """Wait for a service that serves."""
        while self.talk is None:
            await self._ready.wait()
            await asyncio.sleep(0)
        return self.talk


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


class Client:
    """One client: job after job, each with a dataset of its own, until it is told to stop."""

    def __init__(self, service: Service, history: History, number: int, *, content: Callable[[int], bytes]) -> None:
        self.service, self.history, self.number, self.content = service, history, number, content
        self.random = random.Random(number)
        self.weights: dict[str, tuple[bytes, bytes]] = {}
        """Of each job that succeeded: the rows that it was trained on, and the weights that it published."""
        self.template: dict[str, Any] = {}
        self.stop = False

    async def run(self) -> None:
        """Work until told to stop; the last job is followed to its end."""
        turn = 0
        while not self.stop:
            turn += 1
            await self.turn(turn)

    async def turn(self, turn: int) -> None:
        """Upload, create, follow (or cancel), download, and delete the dataset."""
        content = self.content(1000 * self.number + turn)
        dataset = await self.upload(content)
        job = await self.create(dataset, f"client-{self.number}-{turn}")
        cancels = self.number == 0 and turn % 2 == 0
        events = await self.follow(job, cancel_at=2 if cancels else 0)
        if events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED:
            self.weights[job] = content, await self.download(events)
        await self.look(job)
        await self.tail(job, self.random.randint(1, 9))
        await self.patiently(
            lambda talk: talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=dataset)), done="NOT_FOUND"
        )

    async def patiently(self, call: Callable[[Talker], Awaitable[T]], *, done: str = "") -> T | None:
        """Call until the service answers; None where a repeated call finds by its code that it is done already."""
        tries = 0
        while True:
            talk = await self.service.up()
            with broken_off():
                try:
                    return await asyncio.wait_for(call(talk), 10)
                except grpc.aio.AioRpcError as error:
                    if tries and error.code().name == done:
                        return None
                    raise
            tries += 1
            await asyncio.sleep(0.02)

    async def upload(self, content: bytes) -> str:
        """Upload a dataset, from the committed bytes on after each break; its name."""
        request = dataset_pb2.CreateDatasetRequest(
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            request_id=hashlib.sha256(content).hexdigest(),
        )
        made = await self.patiently(lambda talk: talk.stub.CreateDataset(request))
        name = made.dataset.name
        committed = 0
        while True:
            shown = await self.patiently(lambda talk: talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=name)))
            assert shown.dataset.committed_bytes >= committed, "committed bytes were lost"
            committed = shown.dataset.committed_bytes
            if shown.dataset.state == dataset_pb2.DATASET_STATE_READY:
                return name
            talk = await self.service.up()
            with broken_off():
                half = committed + (len(content) - committed + 1) // 2
                pieces = [(committed, content[committed:half]), (half, content[half:])]
                await asyncio.wait_for(
                    talk.write(name, [piece for piece in pieces if piece[1]] or [(committed, b"")]), 10
                )
            await asyncio.sleep(0)

    async def create(self, dataset: str, request_id: str) -> str:
        """Create a job, and once more under the same id; its name."""
        template = job_request(dataset, **self.template)
        request = trainer_pb2.CreateJobRequest(job=template, request_id=request_id)
        for _ in range(2):
            made = await self.patiently(lambda talk: talk.stub.CreateJob(request))
            self.history.created.append(Created(request_id, dataset, made.job.name))
        return self.history.created[-1].job

    async def follow(self, job: str, *, cancel_at: int = 0) -> list[event_pb2.JobEvent]:
        """Watch a job to its end over as many services as it takes; cancel it at a step."""
        seen: list[event_pb2.JobEvent] = []
        cursor, cancelling = "", None
        while not (seen and seen[-1].kind == event_pb2.EVENT_KIND_TERMINAL):
            talk = await self.service.up()
            start = {"cursor": cursor} if cursor and len(seen) % 2 else {"after_seq": len(seen)}
            found: list[event_pb2.JobEvent] = []
            cursors: list[int] = []
            call = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=job, **start))
            with broken_off():
                async with asyncio.timeout(60):
                    while (batch := await call.read()) is not grpc.aio.EOF:
                        found.extend(batch.events)
                        cursors.append(len(seen) + len(found))
                        cursor = batch.cursor or cursor
                        at = max((e.step_metrics.step for e in batch.events), default=0)
                        if cancel_at and at >= cancel_at and cancelling is None:
                            cancelling = asyncio.create_task(self.cancel(job))
            self.history.reads.append(Read(job, len(seen), tuple(found), cursors=tuple(cursors)))
            seen.extend(found)
            await self.look(job)
        if cancelling is not None:
            await cancelling
        return seen

    async def cancel(self, job: str) -> None:
        """Cancel a job."""
        if await self.patiently(lambda talk: talk.cancel(job)) is not None:
            self.history.cancelled.append(job)

    async def look(self, job: str) -> None:
        """Write down how a job is shown."""
        found = await self.patiently(lambda talk: talk.job(job))
        self.history.looks.append(Look(job, found.state, found.last_seq, found.attempt))

    async def tail(self, job: str, count: int) -> None:
        """Read the newest events of an ended job."""
        request = event_log_pb2.ListEventsRequest(name=job, page_size=count, order=event_log_pb2.EVENT_ORDER_DESCENDING)
        page = await self.patiently(lambda talk: talk.stub.ListEvents(request))
        self.history.reads.append(Read(job, 0, tuple(reversed(page.events)), tail=count))

    async def whole(self, job: str) -> None:
        """Read a job's whole log into the history."""
        found: list[event_pb2.JobEvent] = []
        request = event_log_pb2.ListEventsRequest(name=job, page_size=7)
        while True:
            page = await self.patiently(lambda talk: talk.stub.ListEvents(request))
            found.extend(page.events)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        self.history.final[job] = tuple(found)

    async def download(self, events: list[event_pb2.JobEvent]) -> bytes:
        """The weights that a job has published, compared with the hash that its event names."""
        (ready,) = [e.artifact_ready.artifact for e in events if e.HasField("artifact_ready")][-1:]
        (file,) = [f for f in ready.files if f.path.endswith(("weights.bin", "adapter_model.safetensors"))]
        request = artifact_pb2.DownloadArtifactRequest(name=ready.name, path=file.path)

        async def read(talk: Talker) -> bytes:
            return b"".join([part.chunk async for part in talk.stub.DownloadArtifact(request)])

        content = await self.patiently(read)
        assert hashlib.sha256(content).hexdigest() == file.sha256
        return content


class Campaign:
    """A service, its clients, and the kills; `reached` counts how often a process ended at each fail point."""

    def __init__(self, service: Service, *, seed: int, clients: int = 2, content: Callable[[int], bytes]) -> None:
        self.service, self.random = service, random.Random(seed)
        self.history = History()
        self.clients = [Client(service, self.history, number, content=content) for number in range(clients)]
        self.reached: dict[str, int] = {}
        self.kills = 0

    async def run(self, points: list[str], *, random_kills: int, worker_turns: list[str]) -> None:
        """Kill the service at each point and at random moments, while workers die at theirs; then let all end."""
        turns, wanted = self.service.folder / FOLDER, set(worker_turns)
        put(turns, worker_turns)
        work = [asyncio.create_task(client.run()) for client in self.clients]
        try:
            plan = [*points, *[""] * random_kills]
            for point in plan:
                await self._kill(point, work)
            await self.service.start()
            async with asyncio.timeout(120):
                while wanted - set(self.worker_deaths()):
                    _raise_of(work)
                    if not list(turns.glob("????-*")):
                        # The jobs that took them were cancelled before they got there.
                        put(turns, sorted(wanted - set(self.worker_deaths())))
                    await asyncio.sleep(0.05)
                for client in self.clients:
                    client.stop = True
                await asyncio.gather(*work)
            for job in sorted({created.job for created in self.history.created}):
                await self.clients[0].whole(job)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            if self.service.pid:
                await self.service.kill()

    async def _kill(self, point: str, work: list["asyncio.Task[None]"]) -> None:
        """Start the service and end it: at a point, or after a random while."""
        nth = self.random.randint(1, OFTEN.get(point, 1))
        await self.service.start(f"{point}:{nth}" if point else "")
        if point:
            deadline = time.monotonic() + 60
            while not self.service.dead:
                _raise_of(work)
                assert time.monotonic() < deadline, f"{point} is not reached"
                await asyncio.sleep(0.005)
            self.reached[point] = self.reached.get(point, 0) + 1
            await self.service.gone()
        else:
            pause = self.random.random() ** 2 * 0.4
            await self.service.death(pause)
            assert not self.service.dead, "the service ended by itself"
            await self.service.kill()
        self.kills += 1
        print(f"{time.monotonic():.1f} kill {self.kills}: {point or 'at random'}", flush=True)

    def worker_deaths(self) -> list[str]:
        """The fail points at which workers have ended."""
        marks = f"{VARIABLE}: "
        found = []
        for log in self.service.folder.glob("data/jobs/*/attempts/*/output.log"):
            lines = log.read_text(errors="replace").splitlines()
            found += [line.removeprefix(marks) for line in lines if line.startswith(marks)]
        return found

    def assert_whole(self) -> None:
        """Check what the clients saw, and that nothing went wrong inside."""
        broken = violations(self.history)
        assert not broken, broken
        printed = self.service.output.read_text(errors="replace")
        assert "Traceback" not in printed, printed[-4000:]


def _raise_of(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        if task.done():
            task.result()


def in_order(points: list[str], shuffle: random.Random) -> list[str]:
    """The points in a random order; a worker asks for a new secret only of a service that follows such a death."""
    chosen = [point for point in shuffle.sample(points, len(points)) if point != "attach.after_token"]
    if "attach.after_token" in points:
        chosen.insert(chosen.index("attempt.after_begin") + 1, "attach.after_token")
    return chosen


def rows(number: int) -> bytes:
    """A dataset of its own for each number."""
    turn = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": "An answer."}]
    return jsonl([{"messages": turn}] * 3)


def tiny_training(steps: int, *, every: int) -> job_pb2.TrainTask:
    """So many steps of the tiny model, and a checkpoint after every so many, of which two are kept."""
    made = job_pb2.TrainTask()
    training, checkpoints = made.spec.training, made.spec.checkpoints
    training.max_steps, training.effective_batch_size, training.micro_batch_size = steps, 2, 2
    training.sequence_length = 64
    checkpoints.every_steps, checkpoints.keep = every, 2
    return made
