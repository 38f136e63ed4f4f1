# SPDX-License-Identifier: Apache-2.0
"""Programs beside which `load.py` measures: a worker that computes and reports, and a bare server.

The worker's "training" is work for two threads and an even flow of events. The bare server sends ready bytes to
streams: what gRPC for Python takes for it.

    python benchmarks/trainer/load_worker.py worker FOLDER RATE SECONDS …   (started by the trainer)
    python benchmarks/trainer/load_worker.py bare READY RATE BYTES
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

BURNING_THREADS = 2


class EvenCore:
    """Emits so many StepMetrics a second, each with the time of its making, while two threads compute."""

    def __init__(self, folder: Path, rate: float, seconds: float) -> None:
        self._folder, self._rate, self._seconds = folder, rate, seconds

    def warm_up(self) -> None:
        """Nothing to import."""

    def profile(self) -> Any:
        """Not asked for."""
        raise NotImplementedError  # the core's protocol has it; only an idle worker is asked

    def prepare(self, _task: Any, _reporter: Any, _control: Any) -> None:
        """Not asked for."""

    def train(self, _task: Any, reporter: Any, _control: Any) -> Any:
        """Emit until the time is over or the file "stop" appears."""
        from finetree_api.trainer.v1 import event_pb2

        end = time.monotonic() + self._seconds
        stopped = threading.Event()
        threads = [threading.Thread(target=burn, args=(stopped,), daemon=True) for _ in range(BURNING_THREADS)]
        for thread in threads:
            thread.start()
        due, step = time.monotonic(), 0
        while time.monotonic() < end and not (self._folder / "stop").exists():
            step += 1
            reporter.emit(
                event_pb2.StepMetrics(
                    step=step, total_steps=1_000_000, epoch=step / 1e6, loss=2.0, learning_rate=1e-3, grad_norm=0.7,
                    processed_tokens=step * 512, target_tokens=step * 128, tokens_per_second=time.time(),
                    step_seconds=1 / self._rate, memory_bytes=10**9,
                )
            )  # fmt: skip
            due += 1 / self._rate
            time.sleep(max(0.0, due - time.monotonic()))
        stopped.set()
        return event_pb2.RunSummary()


def burn(stopped: threading.Event) -> None:
    """Compute without the interpreter's lock, as a matrix product does."""
    while not stopped.is_set():
        hashlib.pbkdf2_hmac("sha256", b"load", b"salt", 20_000)


def worker(folder: Path, rate: float, seconds: float, arguments: list[str]) -> int:
    """The worker process, started by the trainer."""
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    from finetree_worker.process.process import Process, parse

    return Process(parse(arguments), EvenCore(folder, rate, seconds)).run()


async def bare(ready: Path, rate: float, size: int) -> None:
    """Serve a stream of ready bytes, so many messages a second to every watcher; nothing is read or stored."""
    import grpc
    from grpc import aio

    ticks: set[asyncio.Event] = set()
    message = b"x" * size

    async def stream(_request: bytes, rpc: Any) -> None:
        tick = asyncio.Event()
        ticks.add(tick)
        try:
            while True:
                await rpc.write(message)
                await tick.wait()
                tick.clear()
        finally:
            ticks.discard(tick)

    class Handlers(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # noqa: ARG002 - its name is grpc's
            return grpc.unary_stream_rpc_method_handler(stream)

    server = aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    scratch = ready.with_suffix(".new")
    scratch.write_text(json.dumps({"address": f"127.0.0.1:{port}", "pid": os.getpid()}))
    scratch.replace(ready)
    while True:
        await asyncio.sleep(1 / rate)
        for tick in tuple(ticks):
            tick.set()


def main() -> int:
    """Do what the first word says."""
    what, place, rate, last, *rest = sys.argv[1:]
    if what == "worker":
        return worker(Path(place), float(rate), float(last), rest)
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(bare(Path(place), float(rate), int(last)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
