# SPDX-License-Identifier: Apache-2.0
"""The worker's side of WorkerService.Attach: one thread that keeps the stream up and never delays training.

Everything that it sends comes out of the journal, so nothing is lost when the stream breaks and nothing piles up in
memory while the service is away: after each Welcome it continues after the newest event that the service has stored.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import grpc
import grpc.aio
from finetree_api.trainer.v1 import job_pb2
from finetree_api.worker.v1 import worker_pb2, worker_pb2_grpc
from finetree_data.exchange import leader_file

from finetree_worker.attach.commands import Commands, Stop
from finetree_worker.attach.identity import Identity, RefusedError, Timing
from finetree_worker.attach.serving import ServingPort
from finetree_worker.attach.window import BATCH_BYTES, Window
from finetree_worker.events.journal import Journal

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)
_FATAL = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION)
_LAST_CHANCE_SECONDS = 5.0

_Call = grpc.aio.StreamStreamCall[worker_pb2.AttachRequest, worker_pb2.AttachResponse]


class ServiceStream:
    """Maintains a stream to the service. All public methods may be called from any thread.

    In its own thread, `on_task` is called once, with the stream's one task, or with None when a worker that waits for
    one is no longer needed; `on_refused` is called with the reason when the service fences the worker off.
    """

    def __init__(
        self,
        address: str,
        identity: Identity,
        commands: Commands,
        *,
        on_task: Callable[[worker_pb2.Task | None], None],
        on_refused: Callable[[str], object],
        timing: Timing | None = None,
        authority: bytes = b"",
    ) -> None:
        """`address` is a gRPC target, "unix:/path" or "host:port", or a file that has one (`leader_file.target`).

        `authority`: PEM certificates of who vouches for the service's own; empty for plain text.
        """
        self.phase: job_pb2.JobPhase.ValueType = job_pb2.JOB_PHASE_START
        self._address, self._identity, self._commands = address, identity, commands
        self._authority = authority
        self._on_task, self._on_refused = on_task, on_refused
        self._timing = timing or Timing()
        self._window: Window | None = None
        self._profile: worker_pb2.HostProfile | None = None
        self._has_task = self._bound = self._finishing = self._closed = False
        self._acknowledged = 0
        self._contact = time.monotonic()
        self._news = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self.serving = ServingPort(self.wake)
        """Requests to the task, and its replies."""
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._main, name="finetree-stream", daemon=True)

    def start(self) -> None:
        """Begin to attach."""
        self._thread.start()

    def bind(self, journal: Journal) -> None:
        """Send the events of this journal from now on."""
        self._bound = True
        self._in_loop(lambda: self._adopt(journal))

    def wake(self) -> None:
        """Send what is new in the journal."""
        self._in_loop(self._news.set)

    def send_profile(self, profile: worker_pb2.HostProfile) -> None:
        """Send the machine's matrix rates to the service, on each new stream again."""
        self._profile = profile
        self.wake()

    def drain(self, patience: float = float("inf")) -> bool:
        """Wait until the service has stored every event; return whether it has.

        It is waited for as long as the orphan grace lasts, and without a stream for `patience` seconds at most.
        """
        self._finishing = True
        self.wake()
        began = time.monotonic()
        while not self._settled.wait(0.1) and self._thread.is_alive():
            now, grace = time.monotonic(), self._timing.orphan_grace
            # An orphan whose lease has run out already gives the service one last chance, not another lease.
            lease = max(self._contact + grace, began + min(_LAST_CHANCE_SECONDS, grace))
            lost = self.serving.lost_seconds
            if now > min(lease, began + grace) or (lost and now - began > patience):
                break
        return self._settled.is_set()

    def close(self) -> bool:
        """End the stream and the thread; return whether the thread has ended, so that nothing more comes of it."""
        self._closed = True
        self.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=_LAST_CHANCE_SECONDS)
        return not self._thread.is_alive()

    def _in_loop(self, action: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(action)

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        lease = asyncio.create_task(self._watch_lease())
        try:
            await self._keep_attached()
        except RefusedError as refused:
            self._on_refused(str(refused))
        finally:
            lease.cancel()

    async def _watch_lease(self) -> None:
        # In short sleeps, since a Welcome may change the grace, and a task the kind of lease.
        while (left := self._lease_end() - time.monotonic()) > 0:  # noqa: ASYNC110 - for time
            await asyncio.sleep(min(left, 1.0))
        if self._has_task:
            self._commands.end(Stop.INTERRUPT)
            return
        self._closed = True
        self._news.set()
        self._on_task(None)

    def _lease_end(self) -> float:
        lease = self._contact + self._timing.lease(has_task=self._has_task)
        lost = self.serving.lost_seconds
        if self._identity.resting is not None and lost:
            return min(lease, time.monotonic() - lost + self._timing.resting_grace)
        return lease

    async def _keep_attached(self) -> None:
        backoff = self._timing.first_backoff
        while not self._closed:
            contact = self._contact
            try:
                await self._attach()
            except grpc.aio.AioRpcError as error:
                if error.code() in _FATAL:
                    raise RefusedError(error.details() or error.code().name) from error
            except (asyncio.InvalidStateError, EOFError, OSError):
                # A broken stream, whose status came as an AioRpcError where there was one; or no leader is named.
                pass
            backoff = self._timing.first_backoff if self._contact > contact else backoff
            await self._pause(backoff * random.uniform(0.5, 1.5))
            backoff = min(2 * backoff, self._timing.longest_backoff)

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closed and (left := until - time.monotonic()) > 0:
            await self._rest(left)

    async def _rest(self, seconds: float) -> bool:
        """Wait for news, `seconds` at most; return whether there are any."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return False
        self._news.clear()
        return True

    async def _attach(self) -> None:
        try:
            await self._attach_once()
        finally:
            self.serving.closed()

    async def _attach_once(self) -> None:
        async with self._channel() as channel:
            call: _Call = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
            await self._open(call)
            sender, listener = asyncio.create_task(self._send(call)), asyncio.create_task(self._listen(call))
            await asyncio.wait((sender, listener), return_when=asyncio.FIRST_COMPLETED)
            if self._closed:
                await asyncio.wait((listener,), timeout=1)
            sender.cancel()
            listener.cancel()
            # The listener first: what it raises is the reason for the write that failed beside it.
            for outcome in await asyncio.gather(listener, sender, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome

    def _channel(self) -> grpc.aio.Channel:
        target = leader_file.target(self._address)
        if not self._authority:
            return grpc.aio.insecure_channel(target, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(self._authority)
        return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)

    async def _open(self, call: _Call) -> None:
        with suppress(asyncio.InvalidStateError):  # refused before it was written: reading tells why
            await call.write(worker_pb2.AttachRequest(hello=self._identity.hello()))
        self._handle(await self._receive(call))

    async def _listen(self, call: _Call) -> None:
        while True:
            self._handle(await self._receive(call))

    async def _receive(self, call: _Call) -> worker_pb2.AttachResponse:
        # Twice the longest silence that the service promises: a machine under load is late long before it is dead.
        response = await asyncio.wait_for(call.read(), 2 * self._timing.heartbeat)
        if isinstance(response, worker_pb2.AttachResponse):
            self._contact = time.monotonic()
            return response
        raise EOFError

    async def _send(self, call: _Call) -> None:
        beat, profile_sent = time.monotonic(), False
        while not self._closed:
            message = self._events() or self._reply()
            if message is None and self._profile is not None and not profile_sent:
                message, profile_sent = worker_pb2.AttachRequest(host_profile=self._profile), True
            if message is None and time.monotonic() >= beat:
                message = self._heartbeat()
            if message is not None:
                await call.write(message)
                beat = time.monotonic() + self._timing.heartbeat / 2
            elif await self._rest(max(0.0, beat - time.monotonic())) and self._may_gather():
                await asyncio.sleep(self._timing.batch_delay)
        await call.done_writing()

    def _events(self) -> worker_pb2.AttachRequest | None:
        if self._finishing and self._all_stored():
            self._settled.set()
        batch = self._window.next_batch() if self._window is not None else None
        return None if batch is None else worker_pb2.AttachRequest(events=batch)

    def _reply(self) -> worker_pb2.AttachRequest | None:
        reply = self.serving.next_reply()
        return None if reply is None else worker_pb2.AttachRequest(serving=reply)

    def _all_stored(self) -> bool:
        # A task may be over before this thread has got round to adopting its journal: then nothing is stored yet.
        return not self._bound if self._window is None else self._window.settled

    def _may_gather(self) -> bool:
        return not self._finishing and self._window is not None and 0 < self._window.unsent_bytes < BATCH_BYTES

    def _heartbeat(self) -> worker_pb2.AttachRequest:
        newest = self._window.last_seq if self._window is not None else 0
        return worker_pb2.AttachRequest(heartbeat=worker_pb2.WorkerHeartbeat(phase=self.phase, last_worker_seq=newest))

    def _handle(self, response: worker_pb2.AttachResponse) -> None:
        match response.WhichOneof("message"):
            case "welcome":
                self._welcome(response.welcome)
            case "fenced":
                raise RefusedError(f"attempt {response.fenced.current_attempt} has taken over")
            case "acknowledge":
                self._note_stored(response.acknowledge.acknowledged)
            case "command":
                self._obey(response.command)
            case "task":
                self._take(response.task)
            case "serving":
                self.serving.receive(response.serving)

    def _welcome(self, welcome: worker_pb2.Welcome) -> None:
        self._timing = self._timing.agreed(welcome)
        self._acknowledged = welcome.acknowledged
        self.serving.opened()
        if self._window is not None:
            self._window.resume(welcome.acknowledged)
        if welcome.HasField("task"):
            self._take(welcome.task)

    def _note_stored(self, acknowledged: int) -> None:
        self._acknowledged = max(self._acknowledged, acknowledged)
        if self._window is not None:
            self._window.acknowledge(acknowledged)
        self._news.set()

    def _obey(self, command: worker_pb2.Command) -> None:
        if self._has_task:
            self._commands.apply(command)
        elif command.kind == worker_pb2.COMMAND_KIND_SHUTDOWN:
            self._on_task(None)

    def _take(self, task: worker_pb2.Task) -> None:
        if not self._has_task:
            self._has_task = True
            self._identity = self._identity.with_task(task)
            self._on_task(task)

    def _adopt(self, journal: Journal) -> None:
        try:
            self._window = Window(journal, self._acknowledged)
        except RefusedError as refused:
            self._on_refused(str(refused))
        self._news.set()
