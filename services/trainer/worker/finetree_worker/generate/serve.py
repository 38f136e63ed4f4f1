# SPDX-License-Identifier: Apache-2.0
"""A serving task: load the base and its targets, then answer requests until it is told to end.

The engine's thread alone runs the model. Weights of new targets are read in a second thread, so that answers go on;
they are put in place between two steps. A bad request is answered with its error and changes nothing.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from finetree_api.trainer.v1 import event_pb2, job_pb2, serving_pb2
from finetree_api.worker.v1 import worker_pb2
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.control import STOPS, Control, Signal, Steering
from finetree_worker.device_memory import free_memory_bytes, is_out_of_memory, memory_bytes
from finetree_worker.errors import Cancelled, TaskError
from finetree_worker.events.envelope import Reporter
from finetree_worker.events.error_status import status_of
from finetree_worker.generate import adapters
from finetree_worker.generate.adapters import Adapters, no_memory
from finetree_worker.generate.engine import Engine, not_loaded
from finetree_worker.generate.plan import ServePlan
from finetree_worker.generate.targets.target import Target
from finetree_worker.methods.weights import Weights
from finetree_worker.models import checks
from finetree_worker.models.load import load_model, load_tokenizer

POLL_SECONDS = 0.25
"""Longest wait for a request before commands are looked at again."""
_log = logging.getLogger(__name__)


class Asked(Protocol):
    """Requests, each with the monotonic time of its receipt, and the number of the stream that they came on."""

    @property
    def stream(self) -> int:
        """Number of the stream."""

    @property
    def requests(self) -> tuple[tuple[float, worker_pb2.ServingRequest], ...]:
        """Requests in the order of their receipt."""


class Port(Protocol):
    """Where requests come from and replies go: attach/serving.py has the real one."""

    @property
    def lost_seconds(self) -> float:
        """Seconds for which there has been no service."""

    def take(self, stream: int, timeout: float) -> Asked:
        """Return what was asked; waits for it, or for a stream other than `stream`."""

    def reply(self, stream: int, reply: worker_pb2.ServingReply) -> None:
        """Send a reply."""

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until replies can be sent; return whether they can."""


@dataclass(slots=True)
class _Loading:
    """A target whose weights are being read, and the request that is answered when they are."""

    shown: serving_pb2.ServeTarget
    weights: Weights
    read: Future[Target]
    request: int


def serve(plan: ServePlan, *, reporter: Reporter, control: Control, port: Port) -> None:
    """Serve until the service has no more use for it, or has been gone for longer than the lease.

    Raises Cancelled on request, and the errors of loading: ModelError, PlanError, MemoryExhaustedError.
    """
    torch.set_num_threads(plan.threads)
    try:
        with _phase(reporter, job_pb2.JOB_PHASE_LOAD_MODEL) as progress:
            engine, shown = _load(plan, Steering(control), progress)
    except Cancelled:
        if control.poll() is Signal.SHUTDOWN:
            return
        raise
    reporter.emit(event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_SERVE, fraction=0.0))
    _Server(engine, shown, plan, reporter=reporter, port=port).run(control)
    reporter.emit(event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_SERVE, fraction=1.0))


@contextmanager
def _phase(reporter: Reporter, phase: job_pb2.JobPhase.ValueType) -> Iterator[Callable[[float], None]]:
    def progress(fraction: float) -> None:
        reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=fraction))

    progress(0.0)
    yield progress
    progress(1.0)


def _load(
    plan: ServePlan, steering: Steering, progress: Callable[[float], None]
) -> tuple[Engine, dict[str, serving_pb2.LoadedTarget]]:
    """Load the base and the targets of the task; return the engine, and the targets as they are shown."""
    steering.stop_here()
    device = torch.device(plan.device)
    plan.check_memory(free_memory_bytes(device))
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(plan.base.folder)
    model: PreTrainedModel = load_model(plan.base.folder, plan.dtype, device=device, quantization=plan.quantization)
    model.requires_grad_(requires_grad=False)
    checks.check_fit(plan.base.folder, model.config, tokenizer, sequence_length=plan.limits.context)
    loaded = Adapters(model)
    engine = Engine(model, tokenizer, loaded, limits=plan.limits)
    shown: dict[str, serving_pb2.LoadedTarget] = {}
    for index, (target, weights) in enumerate(plan.targets, start=1):
        steering.stop_here()
        progress(index / (len(plan.targets) + 1))
        loaded.check_name(target.name)
        found = adapters.read(weights, model)
        loaded.add(target.name, found)
        shown[target.name] = found.message(target)
    return engine, shown


class _Server:
    def __init__(
        self,
        engine: Engine,
        shown: dict[str, serving_pb2.LoadedTarget],
        plan: ServePlan,
        *,
        reporter: Reporter,
        port: Port,
    ) -> None:
        self._engine, self._shown, self._plan = engine, shown, plan
        self._reporter, self._port = reporter, port
        self._stream = 0
        self._loading: dict[str, _Loading] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="finetree-weights")

    def run(self, control: Control) -> None:
        """Answer until the task is to end; whatever is being answered then is dropped. Raises Cancelled."""
        self._announce(serving_pb2.SERVING_CHANGE_READY)
        try:
            while not self._is_over(control):
                self._turn()
        finally:
            self._engine.forget()
            self._reader.shutdown(wait=False, cancel_futures=True)

    def _is_over(self, control: Control) -> bool:
        asked = control.poll()
        if asked is Signal.SHUTDOWN:
            return True
        if asked is Signal.CANCEL or asked in STOPS:
            raise Cancelled
        # Without a service nobody can ask, and nothing would be lost.
        return self._port.lost_seconds > self._plan.lease_seconds

    def _turn(self) -> None:
        waits = 0.0 if self._engine.busy else POLL_SECONDS / (5 if self._loading else 1)
        asked = self._port.take(self._stream, waits)
        if asked.stream != self._stream:
            # Who asked on the stream before has been told that it broke.
            self._engine.forget()
            self._stream = asked.stream
        for received, request in asked.requests:
            self._handle(request, received)
        for loading in [each for each in self._loading.values() if each.read.done()]:
            self._finish_loading(loading)
        if self._engine.busy and self._port.wait_for_room(POLL_SECONDS):
            for number, said in self._engine.step():
                self._say(number, said)

    def _handle(self, request: worker_pb2.ServingRequest, received: float) -> None:
        try:
            match request.WhichOneof("request"):
                case "generate":
                    self._engine.start(request.id, request.generate, received=received)
                case "cancel":
                    self._engine.cancel(request.id)
                case "load":
                    self._load(request.id, request.load)
                case "unload":
                    self._unload(request.id, request.unload)
        except TaskError as error:
            self._refuse(request.id, error)
        except Exception as error:  # noqa: BLE001 - whatever one request makes of the tokenizer must not end the others
            _log.exception("a request failed")
            self._refuse(request.id, _unexpected(error))

    def _say(self, number: int, said: serving_pb2.GenerateResponse | TaskError) -> None:
        if isinstance(said, TaskError):
            self._refuse(number, said)
        else:
            self._port.reply(self._stream, worker_pb2.ServingReply(id=number, generated=said))

    def _refuse(self, number: int, error: TaskError) -> None:
        self._port.reply(self._stream, worker_pb2.ServingReply(id=number, error=status_of(error)))

    def _load(self, number: int, asked: worker_pb2.LoadWeights) -> None:
        weights = Weights.from_message(asked.weights)
        waiting = self._loading.get(asked.target.name)
        if waiting is not None and waiting.weights == weights:
            # Asked again on another stream, for the first answer was lost with the one before.
            waiting.request = number
            return
        self._engine.adapters.check_name(asked.target.name, self._loading)
        read = self._reader.submit(adapters.read, weights, self._engine.model)
        self._loading[asked.target.name] = _Loading(asked.target, weights, read, number)

    def _finish_loading(self, loading: _Loading) -> None:
        name = loading.shown.name
        del self._loading[name]
        try:
            target = loading.read.result()
            self._engine.adapters.add(name, target)
        except TaskError as error:
            self._refuse(loading.request, error)
            return
        except Exception as error:  # noqa: BLE001 - nor must what is in the files of one target
            _log.exception("a target could not be loaded")
            self._refuse(
                loading.request, no_memory(self._engine.model) if is_out_of_memory(error) else _unexpected(error)
            )
            return
        self._shown[name] = target.message(loading.shown)
        self._announce(serving_pb2.SERVING_CHANGE_LOADED, name)
        self._port.reply(self._stream, worker_pb2.ServingReply(id=loading.request, loaded=self._shown[name]))

    def _unload(self, number: int, name: str) -> None:
        if name not in self._shown:
            raise not_loaded(name, list(self._shown))
        self._engine.cancel_target(name)
        self._engine.adapters.remove(name)
        del self._shown[name]
        self._announce(serving_pb2.SERVING_CHANGE_UNLOADED, name)
        self._port.reply(self._stream, worker_pb2.ServingReply(id=number, unloaded=worker_pb2.TargetUnloaded()))

    def _announce(self, change: serving_pb2.ServingChange.ValueType, target: str = "") -> None:
        self._reporter.emit(
            serving_pb2.ServingChanged(
                change=change,
                target=target,
                targets=self._shown.values(),
                memory_bytes=memory_bytes(torch.device(self._plan.device)),
            )
        )


def _unexpected(error: BaseException) -> TaskError:
    return TaskError(
        "GENERATION_FAILED",
        f"The request failed unexpectedly ({type(error).__name__}).",
        remedy="The job's log has the details (ReadJobLog, `finetree jobs logs`).",
    )
