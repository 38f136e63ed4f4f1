# SPDX-License-Identifier: Apache-2.0
"""How a service starts, says how it is, and stops."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import grpc
import pytest
from finetree_api.trainer.v1 import event_log_pb2
from finetree_runtime import errors
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.service import serving
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

PROGRAM = Path(__file__).with_name("program.py")
WAIT = 60
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Running:
    """The test service as a process; killed at the end of the block if it has not ended by itself."""

    def __init__(self, *flags: str, stdin: int = subprocess.DEVNULL) -> None:
        self._flags, self._stdin = flags, stdin

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "error", str(PROGRAM), *self._flags]
        self.process = subprocess.Popen(
            command, stdin=self._stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def ready(self):
        """The ready line; blocks until it is there, or until the process ends."""
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def end(self):
        """The exit code and what was logged."""
        _, logged = self.process.communicate(timeout=WAIT)
        return self.process.returncode, logged


def test_sigterm_lets_a_stream_say_its_last_word_and_a_call_end(program):
    with Running("--drain-time", "600s") as running:
        ready = running.ready()
        assert (ready["service"], ready["version"], ready["pid"]) == ("probe", "1.2.3", running.process.pid)
        with grpc.insecure_channel(ready["address"]) as channel:
            watch = program.trainer_pb2_grpc.TrainerServiceStub(channel).WatchJob(
                event_log_pb2.WatchJobRequest(name="j"), timeout=WAIT
            )
            assert next(watch) == event_log_pb2.WatchJobResponse()
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT)
            assert next(health).status == SERVING
            running.process.send_signal(signal.SIGTERM)
            assert next(watch).cursor == "goodbye"
            with pytest.raises(grpc.RpcError) as caught:
                next(watch)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            # A health watch is open all the while: had the drain waited for it, the end would be late.
            code, logged = running.end()
    assert code == 0
    assert '"stopped"' in logged
    assert "Traceback" not in logged


def test_a_stream_that_does_not_listen_is_cut_off_after_the_drain_time(program):
    with Running("--drain-time", "300ms") as running:
        with grpc.insecure_channel(running.ready()["address"]) as channel:
            watch = program.trainer_pb2_grpc.TrainerServiceStub(channel).WatchJob(
                event_log_pb2.WatchJobRequest(name="deaf"), timeout=WAIT
            )
            next(watch)
            running.process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.RpcError):
                next(watch)
        code, logged = running.end()
    assert code == 0
    assert '"stopped"' in logged


def test_the_end_of_standard_input_stops_a_service_that_was_told_so():
    with Running("--stop-with-stdin", stdin=subprocess.PIPE) as running:
        running.ready()
        running.process.stdin.write("what comes is ignored")
        code, logged = running.end()  # which closes it
    assert code == 0
    assert '"stopped"' in logged


def test_a_second_signal_ends_the_process_at_once(program):
    with Running("--drain-time", "60s") as running, grpc.insecure_channel(running.ready()["address"]) as channel:
        watch = program.trainer_pb2_grpc.TrainerServiceStub(channel).WatchJob(
            event_log_pb2.WatchJobRequest(name="deaf"), timeout=WAIT
        )
        next(watch)
        running.process.send_signal(signal.SIGINT)
        while '"draining"' not in running.process.stderr.readline():
            assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        code, logged = running.end()
    assert code == 128 + signal.SIGINT
    assert '"stopped"' not in logged


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--address", "0.0.0.0:0"], "INSECURE_ADDRESS"),
        (["--address", "[::]:0"], "INSECURE_ADDRESS"),
        (["--tls-cert", "cert.pem"], "TLS_INCOMPLETE"),
        (["--log-level", "loud"], "SETTING_INVALID"),
        (["--address", "localhost"], "SETTING_INVALID"),
        (["--address", "https://127.0.0.1:1"], "SETTING_INVALID"),
        (["--metrics-address", "127.0.0.1"], "SETTING_INVALID"),
        (["--metrics-address", "127.0.0.1:99999"], "SETTING_INVALID"),
        (["--ready-file", "no-such-folder/ready.json"], "READY_FILE_UNUSABLE"),
    ],
)
def test_a_service_that_is_set_wrongly_ends_with_one_line(flags, reason):
    with Running(*flags) as running:
        code, said = running.end()
    assert code == 2
    assert said.startswith(f"{reason}: ")
    assert said.count("\n") == 1


def test_a_ready_file_takes_the_ready_lines_place(tmp_path):
    path = tmp_path / "ready.json"
    path.write_text("of an earlier run")
    with Running("--ready-file", str(path), "--address", f"unix:{tmp_path}/socket") as running:
        deadline = time.monotonic() + WAIT
        while ready_line(path) is None:
            assert running.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        ready = json.loads(ready_line(path))
        assert ready["address"] == f"unix:{tmp_path}/socket"
        assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
        with grpc.insecure_channel(ready["address"]) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WAIT)
        running.process.terminate()
        out, _ = running.process.communicate(timeout=WAIT)
    assert reply.status == SERVING
    assert out == ""


def ready_line(path):
    """What this run wrote; None as long as there is nothing, or what an earlier one left."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    return None if "earlier" in text else text


async def test_other_addresses_need_tls_or_a_word(program):
    for address in ("0.0.0.0:0", "[::]:0", "example.org:0", "10.0.0.1:0"):
        with pytest.raises(SettingsError) as caught:
            async with serving(program.build(program.Settings(address=address))):
                pass
        assert caught.value.reason == "INSECURE_ADDRESS"
    async with serving(program.build(program.Settings(address="0.0.0.0:0", insecure=True))) as address:
        assert address.startswith("0.0.0.0:")
        assert not address.endswith(":0")


async def test_a_port_that_is_taken_is_said(program):
    async with serving(program.build(program.Settings())) as address:
        with pytest.raises(SettingsError) as caught:
            async with serving(program.build(program.Settings(address=address))):
                pass
    assert caught.value.reason == "ADDRESS_UNAVAILABLE"
    assert address in str(caught.value)


async def test_health_tells_liveness_from_readiness(program, connect):
    service = program.build(program.Settings())

    async def status(name: str = "") -> int:
        return (await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=WAIT)).status

    async with serving(service) as address, connect(address) as client:
        health = health_pb2_grpc.HealthStub(client.channel)
        assert [await status(), await status(program.ESTIMATOR), await status(program.TRAINER)] == [SERVING] * 3
        await service.set_ready(ready=False)
        assert [await status(), await status(program.ESTIMATOR)] == [SERVING, NOT_SERVING]
        await service.set_ready(ready=True)
        assert await status(program.ESTIMATOR) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status("nothing.Such")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_health_watch_sees_readiness_end_with_the_drain(program, connect):
    service = program.build(program.Settings())
    async with contextlib.AsyncExitStack() as later:
        async with serving(service) as address:
            client = await later.enter_async_context(connect(address))
            watch = client.trainer.WatchJob(event_log_pb2.WatchJobRequest(name="j"), timeout=WAIT)
            await watch.read()
            name = health_pb2.HealthCheckRequest(service=program.TRAINER)
            health = health_pb2_grpc.HealthStub(client.channel).Watch(name, timeout=WAIT)
            assert (await health.read()).status == SERVING
            seen = asyncio.ensure_future(health.read())
        assert (await seen).status == NOT_SERVING
        assert (await watch.read()).cursor == "goodbye"


async def test_reflection_lists_the_services_on_loopback_alone(program, connect):
    async def ask(client) -> set[str]:
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        session = stub.ServerReflectionInfo(iter([request]), timeout=WAIT)
        return {service.name async for reply in session for service in reply.list_services_response.service}

    async with serving(program.build(program.Settings())) as address, connect(address) as client:
        assert {program.ESTIMATOR, program.TRAINER, "grpc.health.v1.Health"} <= await ask(client)
    settings = program.Settings(address="0.0.0.0:0", insecure=True)
    async with serving(program.build(settings)) as address, connect(address) as client:
        # Nothing is sent: grpc answers INTERNAL for a message that it sends as the server ends the call.
        refused = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo(timeout=WAIT)
        assert await refused.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_hooks_run_in_order_and_a_failing_one_stops_nothing(program):
    service = program.build(program.Settings())
    seen = []

    async def start() -> None:
        seen.append("start")

    async def drain() -> None:
        seen.append(f"drain {service.draining.is_set()}")
        raise RuntimeError

    async def stop() -> None:
        seen.append("stop")

    service.on_start, service.on_drain, service.on_stop = start, drain, stop
    async with serving(service):
        seen.append("serving")
    assert seen == ["start", "serving", "drain True", "stop"]


async def test_a_start_that_fails_is_cleaned_up_after(program):
    service = program.build(program.Settings())
    stopped = asyncio.Event()

    async def start() -> None:
        raise errors.FailedPrecondition("STORE_LOCKED", "another trainer uses the store")

    async def stop() -> None:
        stopped.set()

    service.on_start, service.on_stop = start, stop
    with pytest.raises(errors.FailedPrecondition):
        async with serving(service):
            pass
    assert stopped.is_set()
