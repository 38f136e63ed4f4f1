# SPDX-License-Identifier: Apache-2.0
"""What clients ask of a served base model: answers, and other targets. Each call goes to the job's worker and back."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NoReturn

from finetree.display.units import GIB
from finetree_api.trainer.v1 import job_pb2, serving_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_runtime import errors
from finetree_runtime.errors import (
    DomainError,
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Violation,
    invalid_field,
)
from finetree_runtime.server.logging import get_logger
from google.rpc import error_details_pb2, status_pb2

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.serving.leases import EXPIRED, YIELDED, Leases, lease_expired
from finetree_trainer.jobs.serving.memory import target_bytes
from finetree_trainer.models.weights import WeightsLocator, require_loadable
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.store import request_ids
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.store.request_ids import RequestKey
from finetree_trainer.workers.exchange import Answers, WorkerGoneError
from finetree_trainer.workers.supervisor import Supervisor

BASE = "base"
"""Name of the base model among the targets."""
MAX_ANSWERED = 5
"""Targets of one call of Generate."""
WAITING_FACTOR = 4
"""Answers that a job may be asked for at once, those that wait among them, for each that it decodes together."""
RETRY_SECONDS = 1.0
LOGGED_SECONDS = 5.0
"""Longest wait until a loaded target stands in the job's log, which is where a name is looked up."""
DEFAULTS: dict[str, float] = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 0, "max_new_tokens": 256}
"""Values of unset settings, as Sampling documents them."""

_REFUSALS: dict[str, type[DomainError]] = {
    "PROMPT_TOO_LONG": errors.InvalidArgument,
    "NO_CHAT_TEMPLATE": errors.InvalidArgument,
    "TEMPLATE_REFUSED_ROW": errors.InvalidArgument,
    "INVALID_REQUEST": errors.InvalidArgument,
    "WEIGHTS_UNREADABLE": errors.InvalidArgument,
    "MODEL_PICKLED": errors.InvalidArgument,
    "WRONG_BASE": errors.InvalidArgument,
    "WEIGHTS_MISMATCH": errors.InvalidArgument,
    "TARGET_NOT_LOADED": errors.NotFound,
    "TARGET_EXISTS": errors.AlreadyExists,
    "TARGET_LIMIT": errors.ResourceExhausted,
    "OUT_OF_MEMORY": errors.ResourceExhausted,
    "OUT_OF_MEMORY_PREFLIGHT": errors.ResourceExhausted,
    "WEIGHTS_CHANGED": errors.FailedPrecondition,
}
"""Reasons of a worker's errors that clients are told, and their status codes; any other is GENERATION_FAILED."""


class Generations:
    """Asks the workers of jobs that serve. `uid` is a job's, in the caller's project."""

    def __init__(
        self,
        log: EventLog,
        leases: Leases,
        supervisor: Supervisor,
        *,
        weights: WeightsLocator,
        devices: Sequence[Device],
        free: Callable[[Device], int],
    ) -> None:
        self._log, self._leases, self._supervisor = log, leases, supervisor
        self._weights = weights
        self._devices = devices
        self._free = free
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def drain(self) -> None:
        """End every call with SERVER_STOPPING; the workers go on without the service."""
        if not self._stop.done():
            self._stop.set_result(None)

    async def generate(
        self, uid: str, request: serving_pb2.GenerateRequest
    ) -> AsyncGenerator[serving_pb2.GenerateResponse]:
        """Stream the answers to a prompt. A caller that stops to read ends them. Raises what Generate documents."""
        row, task = await self._serving(uid)
        names = _names(request, task)
        most = WAITING_FACTOR * task.max_parallel
        asked = self._leases.sequences(uid)
        if asked and asked + len(names) > most:
            text = f"The job is asked for {asked} answers now, and takes {most} at once; try again when some are given."
            raise ResourceExhausted("TOO_MANY_GENERATIONS", text, retry_delay=RETRY_SECONDS)
        # Until the worker is done: a client that does not read its answer keeps nobody from the device.
        use = self._leases.use(row, sequences=len(names))
        try:
            sent = worker_pb2.ServingRequest(generate=_complete(request, names))
            answers = self._ask(row, sent, on_end=use.release)
            try:
                response = (await self._next(answers)).generated
                response.targets.extend(names)
                yield response
                while not response.HasField("usage"):
                    response = (await self._next(answers)).generated
                    yield response
            finally:
                answers.cancel()
        finally:
            use.release()

    async def load(
        self, uid: str, project: str, request: serving_pb2.LoadTargetRequest, *, key: RequestKey
    ) -> serving_pb2.LoadedTarget:
        """Load a target. Raises what LoadTarget documents."""
        repeated = await self._answered(key)
        if repeated is not None:
            return serving_pb2.LoadedTarget.FromString(repeated)
        row, task = await self._serving(uid)
        weights = await self._weights.locate(project, request.target.weights, "target.weights")
        record = job_pb2.Job.FromString(row.record)
        await self._weights.require_base_of(weights, task.model, record.base, "target.weights")
        require_loadable(weights, task.quantization, "target.weights")
        target = serving_pb2.ServeTarget()
        target.CopyFrom(request.target)
        target.weights.sha256 = weights.sha256
        present = next((loaded for loaded in task.loaded if loaded.name == target.name), None)
        if present is not None and present.weights == target.weights:
            return present
        await self._make_room(row, target_bytes(weights, task))
        sent = worker_pb2.LoadWeights(target=target, weights=weights.message(target.name))
        use = self._leases.use(row)
        try:
            asked = self._ask(row, worker_pb2.ServingRequest(load=sent), on_end=use.release)
            reply = await self._next(asked)
            await self._until_logged(uid, target.name, loaded=True)
        finally:
            use.release()
        await self._remember(key, row, reply.loaded.SerializeToString())
        return reply.loaded

    async def unload(self, uid: str, name: str, *, key: RequestKey) -> None:
        """Remove a target. Raises what UnloadTarget documents."""
        if await self._answered(key) is not None:
            return
        row, task = await self._serving(uid)
        if name not in {loaded.name for loaded in task.loaded}:
            raise _not_loaded(name, task, "target")
        use = self._leases.use(row)
        try:
            await self._next(self._ask(row, worker_pb2.ServingRequest(unload=name), on_end=use.release))
            await self._until_logged(uid, name, loaded=False)
        finally:
            use.release()
        await self._remember(key, row, b"-")

    async def targets(self, uid: str) -> serving_pb2.ListTargetsResponse:
        """List what is loaded, and the lease. Raises FailedPrecondition NOT_SERVING for a job of another kind."""
        row = await self._log.row(uid)
        if row.task != job_pb2.TASK_KIND_SERVE:
            raise _not_serving(row)
        lease = self._leases.get(uid)
        loaded = job_pb2.Job.FromString(row.snapshot).serve.loaded if lease is not None else ()
        return serving_pb2.ListTargetsResponse(targets=loaded, lease=lease)

    async def _serving(self, uid: str) -> tuple[JobRow, serving_pb2.ServeTask]:
        """A job that answers now, and its task with what is loaded. Raises NOT_SERVING, LEASE_EXPIRED."""
        row = await self._log.row(uid)
        snapshot = job_pb2.Job.FromString(row.snapshot)
        if row.task == job_pb2.TASK_KIND_SERVE and snapshot.state_reason.code in (EXPIRED, YIELDED):
            raise lease_expired(snapshot.state_reason.text)
        if row.task != job_pb2.TASK_KIND_SERVE or row.state != job_pb2.JOB_STATE_RUNNING:
            raise _not_serving(row)
        task = job_pb2.Job.FromString(row.record).serve
        task.loaded.extend(snapshot.serve.loaded)
        return row, task

    def _ask(self, row: JobRow, request: worker_pb2.ServingRequest, *, on_end: Callable[[], None]) -> Answers:
        exchange = self._supervisor.exchange(row.uid, row.attempt)
        if exchange is None:
            raise _worker_lost()
        return exchange.ask(request, on_end)

    async def _next(self, answers: Answers) -> worker_pb2.ServingReply:
        """The next answer. Raises Unavailable WORKER_LOST and SERVER_STOPPING, and the worker's refusal."""
        coming = asyncio.ensure_future(answers.next())
        try:
            awaited: set[asyncio.Future[Any]] = {coming, self._stop}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                text = "The server is stopping; ask again."
                raise Unavailable("SERVER_STOPPING", text, retry_delay=RETRY_SECONDS)
            reply = coming.result()
        except WorkerGoneError:
            raise _worker_lost() from None
        finally:
            coming.cancel()
        if reply.HasField("error"):
            _refuse(reply.error)
        return reply

    async def _make_room(self, row: JobRow, needed: int) -> None:
        """Have workers that rest give up their memory where it is needed. Raises as `_require_memory`."""
        try:
            await asyncio.to_thread(self._require_memory, row, needed)
        except ResourceExhausted:
            if not await self._supervisor.resting.end_all():
                raise
            await asyncio.to_thread(self._require_memory, row, needed)

    def _require_memory(self, row: JobRow, needed: int) -> None:
        """Raise ResourceExhausted OUT_OF_MEMORY_PREFLIGHT unless a target fits beside what runs."""
        devices = {device.place: device for device in self._devices}
        for placement in job_pb2.Job.FromString(row.snapshot).placements:
            for device_id in placement.device_ids:
                device = devices.get((placement.node, device_id))
                if device is not None and (free := self._free(device)) < needed:
                    text = f"target: its weights need {needed / GIB:.2f} GiB, and {device.display_name} has "
                    text += f"{free / GIB:.2f} GiB free; unload targets, or wait for what runs beside it."
                    metadata = {"needed_bytes": str(needed), "free_bytes": str(free)}
                    raise ResourceExhausted("OUT_OF_MEMORY_PREFLIGHT", text, metadata=metadata)

    async def _until_logged(self, uid: str, name: str, *, loaded: bool) -> None:
        """Wait until the job's log says so too: the next call looks names up there."""
        deadline = asyncio.get_running_loop().time() + LOGGED_SECONDS
        with self._log.watching(uid):
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                row = await self._log.row(uid)
                snapshot = job_pb2.Job.FromString(row.snapshot)
                if (name in {target.name for target in snapshot.serve.loaded}) == loaded or row.end_time:
                    return
                await self._log.wait(uid, row.last_seq, seconds=left, stop=self._stop)

    async def _answered(self, key: RequestKey) -> bytes | None:
        """What was answered to the same request before. Raises AlreadyExists REQUEST_ID_REUSED."""
        found = await self._log.store.read(lambda connection: request_ids.find(connection, key))
        return found.reply if found is not None else None

    async def _remember(self, key: RequestKey, row: JobRow, reply: bytes) -> None:
        now = self._log.clock()
        await self._log.store.write(
            lambda connection: request_ids.claim(connection, key, row.name, now=now, reply=reply)
        )


def _names(request: serving_pb2.GenerateRequest, task: serving_pb2.ServeTask) -> list[str]:
    """The targets that are to answer. Raises InvalidArgument, NotFound TARGET_NOT_LOADED."""
    loaded = [target.name for target in task.loaded]
    if not request.targets:
        if len(loaded) >= MAX_ANSWERED:
            text = f"must be given: {len(loaded)} targets are loaded, and {MAX_ANSWERED} can answer at once"
            raise invalid_field("targets", text)
        return [BASE, *loaded]
    names = [name or BASE for name in request.targets]
    if len(set(names)) < len(names):
        raise invalid_field("targets", 'must each be given once; "" is the base too')
    for index, name in enumerate(names):
        if name != BASE and name not in loaded:
            raise _not_loaded(name, task, f"targets[{index}]")
    return names


def _complete(request: serving_pb2.GenerateRequest, names: Sequence[str]) -> serving_pb2.GenerateRequest:
    """Fill in targets and sampling, as a worker takes them."""
    complete = serving_pb2.GenerateRequest()
    complete.CopyFrom(request)
    complete.ClearField("job")
    del complete.targets[:]
    complete.targets.extend(names)
    for name, value in DEFAULTS.items():
        if not complete.sampling.HasField(name):  # type: ignore[arg-type]  # names from the table above
            setattr(complete.sampling, name, value)
    return complete


def _refuse(status: status_pb2.Status) -> NoReturn:
    """Raise a worker's error as the service's own."""
    info, fields = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        for known in (info, fields):
            if detail.Is(known.DESCRIPTOR):
                detail.Unpack(known)
    metadata = dict(info.metadata)
    metadata.pop("remedy", None)  # the message ends with it
    place = "; ".join(each.field for each in fields.field_violations)
    text = f"{place}: {status.message}" if place else status.message
    violations = [Violation(each.field, each.description, each.reason) for each in fields.field_violations]
    kind = _REFUSALS.get(info.reason)
    if kind is not None:
        raise kind(info.reason, text, metadata=metadata, violations=violations)
    get_logger().error("generation_failed", reason=info.reason, message=status.message)
    raise Internal("GENERATION_FAILED", text, metadata=metadata)


def _not_loaded(name: str, task: serving_pb2.ServeTask, field_path: str) -> NotFound:
    loaded = ", ".join(target.name for target in task.loaded)
    text = f"{field_path}: no target {name!r} is loaded; there are base{', ' if loaded else ''}{loaded}."
    return NotFound("TARGET_NOT_LOADED", text, metadata={"loaded": loaded})


def _not_serving(row: JobRow) -> FailedPrecondition:
    state = job_pb2.JobState.Name(job_pb2.JobState.ValueType(row.state)).removeprefix("JOB_STATE_")
    task = job_pb2.TaskKind.Name(job_pb2.TaskKind.ValueType(row.task)).removeprefix("TASK_KIND_")
    how = "wait until it is RUNNING" if task == "SERVE" else "only a SERVE job answers"
    text = f"Job {row.uid} is a {task} job in state {state}; {how}."
    return FailedPrecondition("NOT_SERVING", text, metadata={"state": state, "task": task})


def _worker_lost() -> Unavailable:
    text = "The worker of the job is not attached now; ask again."
    return Unavailable("WORKER_LOST", text, retry_delay=RETRY_SECONDS)
