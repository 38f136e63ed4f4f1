# SPDX-License-Identifier: Apache-2.0
"""Start a service and stop it.

    settings = load_or_exit(Settings, "FINETREE_ESTIMATOR")
    service = Service("finetree-estimator", distribution_version("finetree-estimator"), settings)
    service.add(estimator_pb2_grpc.add_EstimatorServiceServicer_to_server, Servicer(...), SERVICE)
    sys.exit(run(service))

A service stops at SIGTERM, at SIGINT and, with `stop_with_stdin`, at the end of standard input: it reports
NOT_SERVING, sets `service.draining`, takes no new calls, gives running calls `drain_time`, awaits `on_stop` and exits
with 0. A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # the core reads it once, at import

import grpc
from google.protobuf import descriptor_pool
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from finetree_runtime.config.settings import ServiceSettings, SettingsError, refuse_start
from finetree_runtime.errors import DomainError
from finetree_runtime.meter import OFF, Meter
from finetree_runtime.server import logging, tls, validation
from finetree_runtime.server.audit.start import start_auditor
from finetree_runtime.server.calls import CallInterceptor
from finetree_runtime.server.entry.admission import Admission, CallLimits
from finetree_runtime.server.entry.auth import Authenticator, LocalAuthenticator, authenticator_of
from finetree_runtime.server.limits.file import LimitsFile
from finetree_runtime.server.limits.rate import RateLimits
from finetree_runtime.server.metrics.calls import CallMetrics
from finetree_runtime.server.metrics.prometheus import PrometheusMeter
from finetree_runtime.server.tracing.otlp import Tracing, tracing_of

if TYPE_CHECKING:
    from finetree_runtime.server.metrics.page import Page

Hook = Callable[[], Awaitable[None]]

STOP_SECONDS = 5.0
"""Seconds that `on_stop` gets unless a service says otherwise."""
GC_THRESHOLDS = (20_000, 20, 20)
"""Arguments of `gc.set_threshold`. Calls leave few reference cycles, and a full collection delays every call that
arrives meanwhile: with Python's (700, 10, 10) one took 60 ms every few hundred recommendations."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(slots=True)
class Service:
    """A service before and while it runs.

    Attributes:
        name: For example "finetree-estimator".
        version: The program's version; a trailer of every reply.
        settings: Settings of the service.
        servicers: (add function, servicer, full service name) of each; `add` appends one.
        authenticator: Finds the principal of each call; None: the one that the settings describe.
        on_start: Awaited before the port is bound; may still `add`. A SettingsError or DomainError ends the start.
        on_ready: Awaited once the service reports that it serves: begins what need not be done before.
        on_drain: Awaited after the last call was taken, while running ones end; cancelled after `drain_time`.
        on_stop: Awaited at the very end, also of a start that failed; cancelled after `stop_seconds`.
        stop_seconds: Seconds that `on_stop` gets after the last call; then the process ends whatever still runs.
        draining: Set when the service begins to stop: a stream's handler sends its last message and returns.
        certificates: What it serves TLS with; None before the start and for plain text.
        limits: Limits of principals and projects; None: those of its settings' file alone.
        meter: Where the service counts; from `on_start` on the one of its page, if it has one.
        ready: Whether the service reports that it serves.
        tracing: Where spans go, from `on_start` on; None where the environment asks for none.
    """

    name: str
    version: str
    settings: ServiceSettings
    servicers: list[tuple[Callable[[Any, Any], None], Any, str]] = field(default_factory=list)
    authenticator: Authenticator | None = None
    on_start: Hook | None = None
    on_ready: Hook | None = None
    on_drain: Hook | None = None
    on_stop: Hook | None = None
    stop_seconds: float = STOP_SECONDS
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    certificates: tls.ServerCertificates | None = None
    limits: LimitsFile | None = None
    meter: Meter = OFF
    ready: bool = False
    tracing: Tracing | None = None
    _health: health.aio.HealthServicer = field(default_factory=health.aio.HealthServicer)
    _unfit: bool = False

    def add(self, add_function: Callable[[Any, Any], None], servicer: Any, full_name: str) -> None:
        """Serve one more gRPC service, for example "finetree_api.estimator.v1.EstimatorService"."""
        self.servicers.append((add_function, servicer, full_name))

    async def set_ready(self, *, ready: bool) -> None:
        """Set the health status of each service. Liveness, the health entry "", stays SERVING until the exit."""
        ready = self.ready = ready and not self._unfit and not self.draining.is_set()
        for _, _, full_name in self.servicers:
            await self._health.set(full_name, _SERVING if ready else _NOT_SERVING)

    async def end_readiness(self) -> None:
        """Set the health status to NOT_SERVING for the rest of the run: a part that the service needs has died."""
        self._unfit = True
        await self.set_ready(ready=False)


def run(service: Service) -> int:
    """Serve until a signal and return the exit code: 0 after a drain, 2 where the service could not start."""
    import uvloop

    try:
        logging.configure(service.settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_signal(service))
    except (SettingsError, DomainError) as error:
        return refuse_start(error)
    return 0


@contextlib.asynccontextmanager
async def serving(service: Service) -> AsyncIterator[str]:
    """Serve while the block runs; the value is the bound address. Leaving the block drains and stops the service.

    Raises:
        SettingsError: The service cannot start as it is set.
    """
    settings = service.settings
    certificates = service.certificates = tls.server_certificates(settings)
    authenticator = service.authenticator or authenticator_of(settings)
    page = _page(service)
    limits = service.limits or LimitsFile(settings.limits_file)
    service.tracing = tracing_of(service.name, service.version, os.environ)
    auditor = start_auditor(service.name, service.version, settings)
    tls.show(certificates, service.meter)
    auditor.show(service.meter)
    watching = asyncio.create_task(certificates.watch()) if certificates is not None else None
    try:
        if service.on_start is not None:
            await service.on_start()
        admission = Admission(CallLimits.of(settings))
        calls = CallInterceptor(
            version=service.version,
            authenticator=authenticator,
            max_call_seconds=settings.max_call_time,
            max_request_bytes=settings.max_request_bytes,
            admission=admission,
            auditor=auditor,
            rates=RateLimits(limits),
            metrics=CallMetrics(service.meter, admission) if page is not None else None,
            tracing=service.tracing,
        )
        server = aio.server(interceptors=[calls], options=_channel_options(settings))
        _register(service, server)
        address = _bind(server, settings.address, certificates.credentials() if certificates is not None else None)
        await server.start()
        if isinstance(authenticator, LocalAuthenticator):
            _say_who_may_call(address)
        await service.set_ready(ready=True)
        try:
            if service.on_ready is not None:
                await service.on_ready()
            yield address
        finally:
            await _drain(service, server, calls)
    finally:
        await _call_within(service.on_stop, service.stop_seconds, "on_stop")
        await _call_within(service.tracing.close if service.tracing else None, STOP_SECONDS, "traces")
        if watching is not None:
            watching.cancel()
        if page is not None:
            await asyncio.to_thread(page.close)  # a request in progress may wait for this loop
        await asyncio.to_thread(auditor.close)


def _say_who_may_call(address: str) -> None:
    """Log that no caller is asked who it is: the default on loopback, where it is meant so, and with `insecure`."""
    log = logging.get_logger()
    if address.startswith("unix:"):
        log.info("no_authentication", text="any process of this user may call")
    elif tls.is_local(address):
        log.info("no_authentication", text="anyone on this machine may call; --access-dir asks callers for a token")
    else:
        log.warning("no_authentication", text=f"anyone who reaches {address} may call: --insecure was given")


def _page(service: Service) -> Page | None:
    """Begin to show the service's metrics where its settings have an address for them. Raises SettingsError."""
    address = service.settings.metrics_address
    if not address:
        return None
    from finetree_runtime.server.metrics.page import Page  # Python's HTTP server, only needed with metrics on

    loop = asyncio.get_running_loop()
    service.meter = meter = PrometheusMeter(loop)
    return Page(address, meter=meter, ready=lambda: service.ready, loop=loop)


async def _until_signal(service: Service) -> None:
    if service.settings.ready_file is not None:
        scratch = _scratch(service.settings.ready_file)
        with _ready_file_in_use():
            service.settings.ready_file.unlink(missing_ok=True)  # an earlier run's file would report this one as ready
            scratch.touch()
            scratch.unlink()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, number, stop)
    if service.settings.stop_with_stdin:
        threading.Thread(target=_await_end_of_stdin, args=(loop, stop), name="stdin", daemon=True).start()
    async with serving(service) as address:
        gc.freeze()  # what the start loaded stays loaded: no collection need go through it again
        gc.set_threshold(*GC_THRESHOLDS)
        _announce(service, address)
        await stop.wait()
        logging.get_logger().info("draining", service=service.name)
        _exit_after(service.settings.drain_time + service.stop_seconds + STOP_SECONDS)
    logging.get_logger().info("stopped", service=service.name)


def _on_signal(number: signal.Signals, stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(128 + number)
    stop.set()


def _await_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Read until the other end is closed; the operating system closes it for a starter that was killed."""
    with contextlib.suppress(OSError):  # no standard input at all counts as its end
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the service has stopped meanwhile
        loop.call_soon_threadsafe(stop.set)


def _exit_after(seconds: float) -> None:
    """End the process with 1 if the orderly stop hangs, for example on a thread that never returns."""
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()


async def _drain(service: Service, server: aio.Server, calls: CallInterceptor) -> None:
    grace = service.settings.drain_time
    service.draining.set()
    await service.set_ready(ready=False)
    stopping = asyncio.ensure_future(server.stop(grace))
    await asyncio.gather(calls.wait_until_idle(grace), _call_within(service.on_drain, grace, "on_drain"))
    await stopping
    await calls.wait_until_idle(1.0)  # cancelled calls still run their `finally`


async def _call_within(hook: Hook | None, seconds: float, name: str) -> None:
    """Await a hook of the stop; a failure of it is logged and does not keep the rest from stopping."""
    if hook is None:
        return
    try:
        async with asyncio.timeout(seconds):
            await hook()
    except Exception as error:  # noqa: BLE001  # whatever it is, the service stops
        logging.get_logger().error("hook_failed", hook=name, exc_info=error)


def _register(service: Service, server: aio.Server) -> None:
    """Add the servicers and health, reflection on a local address, and compile the rules of all requests."""
    for add, servicer, full_name in service.servicers:
        add(servicer, server)
        described = descriptor_pool.Default().FindServiceByName(full_name)
        validation.compile_rules(method.input_type.full_name for method in described.methods)
    health_pb2_grpc.add_HealthServicer_to_server(service._health, server)  # noqa: SLF001  # ours, set through set_ready
    if tls.is_local(service.settings.address):
        from finetree_runtime.server.reflection import add_reflection

        add_reflection(server, [*(full_name for _, _, full_name in service.servicers), health.SERVICE_NAME])


def _bind(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """Bind the address and return it with the port that was bound, which differs from the setting for port 0."""
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if not port:
        text = f"cannot listen on {address}: another program uses it, or this machine has no such address"
        raise SettingsError("ADDRESS_UNAVAILABLE", text)
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).chmod(0o600)
        return address
    return f"{address.rpartition(':')[0]}:{port}"


def _announce(service: Service, address: str) -> None:
    """Write the ready line, JSON with the bound address: to stdout, or to a file that appears complete."""
    line = json.dumps({"service": service.name, "version": service.version, "address": address, "pid": os.getpid()})
    ready_file = service.settings.ready_file
    if ready_file is None:
        print(line, flush=True)  # noqa: T201  # the one line of standard output
        return
    scratch = _scratch(ready_file)
    with _ready_file_in_use():
        scratch.write_text(line + "\n", encoding="utf-8")
        scratch.replace(ready_file)


def _scratch(ready_file: Path) -> Path:
    return ready_file.with_name(f"{ready_file.name}.{os.getpid()}")


@contextlib.contextmanager
def _ready_file_in_use() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = f"--ready-file: {error.strerror}; name a file in a folder that exists and that this service may write"
        raise SettingsError("READY_FILE_UNUSABLE", text) from None


def _largest_message(settings: ServiceSettings) -> int:
    """Bytes that gRPC itself lets through: more than a request may have, so that the refusal has a reason."""
    return max(2 * settings.max_request_bytes, settings.max_stream_message_bytes)


def _channel_options(settings: ServiceSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a second server on the port must fail, not receive half of the calls
        ("grpc.max_receive_message_length", _largest_message(settings)),
        ("grpc.max_concurrent_streams", 10_000),  # beyond it unary calls would wait behind watches, without an error
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),  # clients ping every 30 s, a busy machine late
        # A server that had no processor for minutes reads several pings at once. A flood sends thousands.
        ("grpc.http2.max_ping_strikes", 20),
        ("grpc.max_connection_age_ms", 30 * 60_000),  # so that clients spread over replicas again
        ("grpc.max_connection_age_grace_ms", 60_000),
    ]
