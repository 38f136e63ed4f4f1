# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003, ANN202, ARG002 - keyword arguments here are those of protobuf messages and settings
"""A trainer to talk to: in this process or in one of its own, with scripted workers."""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc.aio
from finetree_api.estimator.v1 import calibration_pb2, estimate_pb2
from finetree_api.trainer.v1 import (
    capacity_pb2,
    dataset_pb2,
    event_log_pb2,
    event_pb2,
    job_pb2,
    lifecycle_pb2,
    trainer_pb2,
    trainer_pb2_grpc,
)
from finetree_api.types.v1 import estimate_summary_pb2, method_pb2, run_spec_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from preloaded import Program, loaded

Template = job_pb2.JobTemplate
WORKER = Path(__file__).with_name("scripted_worker.py")
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
QUIET = Duration(seconds=60)
"""Time between heartbeats, longer than any test waits: a heartbeat would hide that a watcher was not woken."""
ROWS = [
    {"messages": [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Answer {i}."}]}
    for i in range(20)
]


def jsonl(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class FixedEstimator:
    """Answers at once with one estimate: what the estimator computes is tested in its own room."""

    def __init__(self) -> None:
        self.asked: list[estimate_pb2.EstimateRunRequest] = []
        self.reported: asyncio.Queue[calibration_pb2.Observation] = asyncio.Queue()
        self.failure: Exception | None = None
        self.tries = 0
        self.revision = "engine-1"

    async def estimate(self, request):
        self.asked.append(request)
        estimate = estimate_pb2.Estimate(optimizer_steps=15)
        estimate.time.total_seconds.expected = 60
        estimate.cost.total.amount.expected = 0.1
        estimate.cost.total.currency_code = "EUR"
        estimate.memory.device_bytes.expected = 2**30
        estimate.fit.verdict = estimate_summary_pb2.FIT_VERDICT_FITS
        estimate.revision.engine.id = self.revision
        return estimate

    async def catalog(self):
        return {"acme-small-1b": "acme/Small-1B"}

    async def report(self, observation, *, request_id):
        self.tries += 1
        if self.failure is not None:
            raise self.failure
        self.reported.put_nowait(observation)


@dataclasses.dataclass
class Talker:
    """A client's side: stubs and the few things that every test does."""

    stub: trainer_pb2_grpc.TrainerServiceStub
    application: object = None
    channel: grpc.aio.Channel | None = None
    put_rows: Callable[[str, bytes], object] | None = None
    """Puts a file under the data root."""
    address: str = ""
    """Where a trainer in this process listens."""
    put_model: Callable[..., object] | None = None
    """`put_model(hub_id, commit, refs=…)`: puts a hub's model on the machine."""

    async def upload(self, content: bytes, **fields) -> dataset_pb2.Dataset:
        created = await self.create_dataset(content, **fields)
        if created.state == dataset_pb2.DATASET_STATE_READY:
            return created
        return await self.write(created.name, [(0, content)])

    async def create_dataset(self, content: bytes, **fields) -> dataset_pb2.Dataset:
        request = dataset_pb2.CreateDatasetRequest(
            size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), **fields
        )
        return (await self.stub.CreateDataset(request)).dataset

    async def write(self, name: str, pieces: list) -> dataset_pb2.Dataset:
        async def requests():
            for offset, data in pieces:
                yield dataset_pb2.WriteDatasetRequest(name=name, offset=offset, data=data)

        return (await self.stub.WriteDataset(requests())).dataset

    async def train(self, *, dataset: str = "", model: str = "tiny", request_id: str = "", **fields) -> job_pb2.Job:
        dataset = dataset or (await self.upload(jsonl(ROWS))).name
        request = trainer_pb2.CreateJobRequest(job=job_request(dataset, model, **fields), request_id=request_id)
        return (await self.stub.CreateJob(request)).job

    async def prepare(self, *, dataset: str = "", model: str = "tiny", request_id: str = "", **fields) -> job_pb2.Job:
        """Create a job with a PrepareTask; `fields` are its settings."""
        template = Template(prepare=job_pb2.PrepareTask(**fields))
        if dataset:
            template.prepare.dataset.name = dataset
        if model:
            template.prepare.model.path = model
        request = trainer_pb2.CreateJobRequest(job=template, request_id=request_id)
        return (await self.stub.CreateJob(request)).job

    async def job(self, name: str) -> job_pb2.Job:
        return (await self.stub.GetJob(trainer_pb2.GetJobRequest(name=name))).job

    async def events(self, name: str, seconds: float = 90.0, **start) -> list[event_pb2.JobEvent]:
        """Every event until the stream ends."""
        found: list[event_pb2.JobEvent] = []
        start = {"heartbeat": QUIET} | start
        async with asyncio.timeout(seconds):
            async for batch in self.stub.WatchJob(event_log_pb2.WatchJobRequest(name=name, **start)):
                found.extend(batch.events)
        return found

    async def until(self, name: str, condition, seconds: float = 90.0) -> list[event_pb2.JobEvent]:
        """Events until one fulfils the condition."""
        found: list[event_pb2.JobEvent] = []
        call = self.stub.WatchJob(event_log_pb2.WatchJobRequest(name=name, heartbeat=QUIET))
        async with asyncio.timeout(seconds):
            async for batch in call:
                for event in batch.events:
                    found.append(event)
                    if condition(event):
                        call.cancel()
                        return found
        raise AssertionError(f"the stream ended after {[event.kind for event in found]}")

    async def measured(self, seconds: float = 90.0) -> capacity_pb2.GetCapacityResponse:
        """The capacity, once a worker has measured this processor."""
        request = capacity_pb2.GetCapacityRequest(wait_for_rate=Duration(seconds=20))
        async with asyncio.timeout(seconds):
            while True:
                found = await self.stub.GetCapacity(request)
                if found.nodes[0].HasField("matrix_rates"):
                    return found

    async def pause(self, name: str, **fields) -> job_pb2.Job:
        return (await self.stub.PauseJob(lifecycle_pb2.PauseJobRequest(name=name, **fields))).job

    async def resume(self, name: str, **fields) -> job_pb2.Job:
        return (await self.stub.ResumeJob(lifecycle_pb2.ResumeJobRequest(name=name, **fields))).job

    async def move(self, name: str, before: str = "", **fields) -> job_pb2.Job:
        return (await self.stub.MoveJob(lifecycle_pb2.MoveJobRequest(name=name, before=before, **fields))).job

    async def cancel(self, name: str, mode: int = 0) -> job_pb2.Job:
        return (await self.stub.CancelJob(trainer_pb2.CancelJobRequest(name=name, mode=mode))).job


def job_request(dataset: str, model: str = "tiny", task: job_pb2.TrainTask | None = None, **fields) -> Template:
    """A template that trains LoRA on a dataset; `task` is merged into its TrainTask, `fields` into the template."""
    template = Template(train=job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(lora=method_pb2.Lora())))
    template.train.spec.model.path = model
    if dataset:
        template.train.spec.dataset.name = dataset
    if task is not None:
        template.train.MergeFrom(task)
    template.MergeFrom(Template(**fields))
    return template


def folders(tmp_path: Path) -> None:
    """A data folder, a model root with one model, a data root with one file."""
    (tmp_path / "models" / "tiny").mkdir(parents=True, exist_ok=True)
    (tmp_path / "models" / "tiny" / "config.json").write_text(
        '{"_name_or_path": "acme/tiny", "max_position_embeddings": 512}'
    )
    (tmp_path / "rows").mkdir(exist_ok=True)
    (tmp_path / "rows" / "train.jsonl").write_bytes(jsonl(ROWS))


def write_script(tmp_path: Path, script: dict) -> tuple[str, ...]:
    """The worker command for a script; the file may be rewritten for later workers."""
    return (*loaded("stand-in").wait().command, *_written(tmp_path, script))


def write_whole_script(tmp_path: Path, script: dict) -> tuple[str, ...]:
    """The same, for a test of the process: the worker is the very process that the trainer has started."""
    return (sys.executable, str(WORKER), *_written(tmp_path, script))


def _written(tmp_path: Path, script: dict) -> tuple[str, ...]:
    file = tmp_path / "script.json"
    file.write_text(json.dumps(script))
    return ("--script", str(file))


def options_of(tmp_path: Path, script: dict, **changes) -> dict:
    """Settings of a trainer for tests: no pre-warmed worker, short graces."""
    folders(tmp_path)
    if "worker_command" not in changes:
        changes["worker_command"] = write_script(tmp_path, script)
    return {
        "address": "127.0.0.1:0",
        "data_dir": tmp_path / "data",
        "model_roots": (str(tmp_path / "models"),),
        "data_roots": (str(tmp_path / "rows"),),
        "estimator_address": "127.0.0.1:1",
        "prewarm": False,
        # Scripted workers read nothing that others made; finding out what the system allows takes a process.
        "confinement": "off",
        "worker_heartbeat": 2.0,
        "cancel_grace": 0.3,
        "checkpoint_grace": 0.3,
        "exit_grace": 0.3,
        "drain_time": 2.0,
        "log_level": "error",
        **changes,
    }


@contextlib.asynccontextmanager
async def trainer(tmp_path: Path, script: dict | None = None, estimator=None, **changes) -> AsyncIterator[Talker]:
    """A trainer in this process."""
    from finetree_runtime.server.service import serving
    from finetree_trainer.application import service
    from finetree_trainer.settings import Settings

    settings = Settings(**options_of(tmp_path, script or {}, **changes))
    async with contextlib.AsyncExitStack() as clients:
        # The channel outlives the server, so that a test sees how its calls end.
        built = service(settings, estimator or FixedEstimator())
        async with serving(built) as address:
            channel = await clients.enter_async_context(grpc.aio.insecure_channel(address, options=OPTIONS))
            yield Talker(
                trainer_pb2_grpc.TrainerServiceStub(channel),
                built.on_start.__self__,
                channel,
                lambda name, content: (tmp_path / "rows" / name).write_bytes(content),
                address,
                functools.partial(put_model, tmp_path),
            )


def bearer_channel(address: str, token: str) -> grpc.aio.Channel:
    """A channel to a trainer whose calls carry a token."""
    metadata = grpc.aio.Metadata(("authorization", f"Bearer {token}"))

    async def send(_, continuation, details, request):
        return await continuation(details._replace(metadata=metadata), request)

    # gRPC takes an interceptor as one kind alone: one each.
    kinds = {
        "intercept_unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
        "intercept_unary_stream": grpc.aio.UnaryStreamClientInterceptor,
        "intercept_stream_unary": grpc.aio.StreamUnaryClientInterceptor,
    }
    interceptors = [type("Bearer", (kind,), {name: send})() for name, kind in kinds.items()]
    return grpc.aio.insecure_channel(address, options=OPTIONS, interceptors=interceptors)


def put_model(
    tmp_path: Path, hub_id: str, commit: str, *, refs: tuple[str, ...] = ("main",), partial: bool = False
) -> Path:
    """A hub's model as a PREPARE task leaves it."""
    from finetree_trainer.models import hub

    home = hub.home(tmp_path / "data" / "models", hub_id)
    folder = home / (f".{commit}.partial" if partial else commit)
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "max_position_embeddings": 512, "vocab_size": 64}
    (folder / "config.json").write_text(json.dumps(config))
    if not partial:
        (folder / "manifest.json").write_text(json.dumps({"hub_id": hub_id, "revision": commit}))
    known = hub.refs(home) | dict.fromkeys(refs, commit)
    (home / "refs.json").write_text(json.dumps(known))
    return folder


class Server:
    """A trainer in a process of its own, to be killed."""

    def __init__(self, tmp_path: Path, script: dict, **changes) -> None:
        self.tmp_path = tmp_path
        self.options = options_of(tmp_path, script, **changes)
        self.process: asyncio.subprocess.Process | Program | None = None
        self.channel: grpc.aio.Channel | None = None
        self.within: tuple[str, ...] = ()
        """A command that runs the one that follows it, in other surroundings."""

    async def start(self) -> Talker:
        ready = self.tmp_path / "ready.json"
        ready.unlink(missing_ok=True)
        given = {key: value for key, value in self.options.items() if key != "prewarm"}
        secrets = {key: value.reveal() for key, value in given.items() if hasattr(value, "reveal")}
        flags = [f"--{key.replace('_', '-')}={_text(value)}" for key, value in given.items() if key not in secrets]
        flags += ["--no-prewarm", f"--ready-file={ready}"]
        environment = os.environ | {f"FINETREE_TRAINER_{key.upper()}": value for key, value in secrets.items()}
        if self.within:
            command = (*self.within, sys.executable, "-m", "finetree_trainer", *flags)
            self.process = await asyncio.create_subprocess_exec(*command, env=environment)
        else:
            self.process = loaded("trainer").wait().start(["finetree_trainer", *flags], environment)
        async with asyncio.timeout(240):  # one of a cluster connects first
            while not ready.exists():
                assert self.process.returncode is None
                await asyncio.sleep(0.02)
        address = json.loads(ready.read_text())["address"]
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        return Talker(trainer_pb2_grpc.TrainerServiceStub(self.channel))

    async def kill(self) -> None:
        """SIGKILL: nothing is flushed, nothing is told."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: int) -> int:
        assert self.process is not None
        if self.channel is not None:
            await self.channel.close()
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 60)


def _text(value) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


@contextlib.asynccontextmanager
async def server(tmp_path: Path, script: dict, **changes) -> AsyncIterator[tuple[Server, Talker]]:
    """A trainer in a process of its own; it and its workers are gone afterwards."""
    running = Server(tmp_path, script, **changes)
    try:
        yield running, await running.start()
    finally:
        await running.kill()
        end_workers(tmp_path)


def end_workers(tmp_path: Path) -> None:
    """End the workers that a killed service has left."""
    for note in (tmp_path / "data" / "workers").glob("*/process.json"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(json.loads(note.read_text())["pid"], signal.SIGKILL)


async def workers_gone(tmp_path: Path) -> None:
    """Wait until no worker is left, and what each has printed is in its attempt's folder: before a test removes that.

    The service moves it there after the worker's end, which may be some time after that of the job.
    """
    async with asyncio.timeout(60):
        while any((tmp_path / "data" / "workers").iterdir()):  # noqa: ASYNC110 - a folder sets no event
            await asyncio.sleep(0.02)


def refusal(error: grpc.aio.AioRpcError) -> tuple[str, str, error_details_pb2.ErrorInfo, list]:
    """Code, reason, ErrorInfo and violations of an error."""
    details = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(details["grpc-status-details-bin"])
    info, faults = error_details_pb2.ErrorInfo(), []
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        for kind in (error_details_pb2.BadRequest, error_details_pb2.PreconditionFailure):
            if detail.Is(kind.DESCRIPTOR):
                message = kind()
                detail.Unpack(message)
                faults = list(message.field_violations if kind is error_details_pb2.BadRequest else message.violations)
    return error.code().name, info.reason, info, faults


def assert_whole(events: list) -> None:
    """The log's promises: 1, 2, 3 … without a gap, exactly one Terminal, last; attempts and times never go back."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    kinds = [event.kind for event in events]
    assert kinds.count(event_pb2.EVENT_KIND_TERMINAL) == 1
    assert kinds[-1] == event_pb2.EVENT_KIND_TERMINAL
    attempts = [event.attempt for event in events]
    assert attempts == sorted(attempts)
    times = [event.event_time.ToMicroseconds() for event in events]
    assert times == sorted(times)


def steps(events: list) -> list[tuple[int, int]]:
    """(attempt, step) of every StepMetrics."""
    return [(e.attempt, e.step_metrics.step) for e in events if e.kind == event_pb2.EVENT_KIND_STEP_METRICS]


def states(events: list) -> list[str]:
    """States in the order in which the job had them."""
    return [
        job_pb2.JobState.Name(e.state_changed.current).removeprefix("JOB_STATE_")
        for e in events
        if e.kind == event_pb2.EVENT_KIND_STATE_CHANGED
    ]
