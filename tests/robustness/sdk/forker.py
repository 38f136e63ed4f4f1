# SPDX-License-Identifier: Apache-2.0
"""A program that forks while it uses a client, and tells what became of its children. Run by test_fork.py."""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import finetree

CHILDREN = 20
CHILD_SECONDS = 15.0


def forked(child: Callable[[], str]) -> str:
    """What a forked child says, or how it ended: "hang", "signal 11"."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            said = child()
        except BaseException as error:  # noqa: BLE001 - the child tells everything and never returns into the parent
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    status = reaped(pid)
    with os.fdopen(reading, "rb") as pipe:
        return status or pipe.read().decode()


def reaped(pid: int) -> str:
    deadline = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ""
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hang"


def call(client: finetree.Client) -> str:
    return f"ok {len(client.list_methods(timeout=5))}"


def background(work: Callable[[], None], count: int) -> tuple[threading.Event, list[str]]:
    """Threads that work until the event is set, and the errors that they met."""
    stop, errors = threading.Event(), list[str]()

    def loop() -> None:
        while not stop.is_set():
            try:
                work()
            except finetree.FinetreeError as error:
                errors.append(str(error))

    for _ in range(count):
        threading.Thread(target=loop, daemon=True).start()
    return stop, errors


def idle(client: finetree.Client, name: str) -> tuple[list[str], list[str]]:
    return [forked(lambda: call(client)) for _ in range(CHILDREN)], []


def streams(client: finetree.Client, name: str) -> tuple[list[str], list[str]]:
    """Four event streams are open and being read."""
    open_streams = [client.job(name).events(heartbeat=0.2) for _ in range(4)]
    for stream in open_streams:
        next(stream)
    for stream in open_streams:
        threading.Thread(target=lambda s=stream: list(s), daemon=True).start()
    return [forked(lambda: call(client)) for _ in range(CHILDREN)], []


def unary(client: finetree.Client, name: str) -> tuple[list[str], list[str]]:
    """Four threads are inside unary calls."""
    stop, errors = background(lambda: call(client), 4)
    said = [forked(lambda: call(client)) for _ in range(CHILDREN)]
    stop.set()
    return said, errors


def inherited(client: finetree.Client, name: str) -> tuple[list[str], list[str]]:
    """A child goes on with its parent's stream, and so does the parent."""
    stream = client.job(name).events(kinds=["step_metrics"], heartbeat=0.2)
    first = next(stream).seq

    def child() -> str:
        return f"ok {next(stream).seq - first}"

    return [forked(child) for _ in range(3)], [] if next(stream).seq == first + 1 else ["the parent lost an event"]


def aio(client: finetree.Client, name: str) -> tuple[list[str], list[str]]:
    """An AsyncClient is open: in a child it refuses at once, and the synchronous one works."""
    said: list[str] = []

    async def parent() -> None:
        async with finetree.AsyncClient(client.options.targets["trainer"].address) as opened:
            await opened.list_methods()

            def child() -> str:
                try:
                    asyncio.new_event_loop().run_until_complete(opened.list_methods())
                except finetree.ForkedClientError:
                    return call(client)
                return "it did not refuse"

            said.extend(forked(child) for _ in range(5))
        # Closed before the fork: a child may use asynchronous clients of its own.
        fresh = finetree.AsyncClient(client.options.targets["trainer"].address)
        said.append(forked(lambda: f"ok {len(asyncio.new_event_loop().run_until_complete(fresh.list_methods()))}"))

    asyncio.run(parent())
    return said, []


def switched_off(client: finetree.Client, name: str) -> tuple[list[str], list[str]]:
    """With GRPC_ENABLE_FORK_SUPPORT=0 every call of a child would hang: it is refused."""
    return [forked(lambda: call(client)) for _ in range(3)], []


MODES = {function.__name__: function for function in (idle, streams, unary, inherited, aio, switched_off)}


def main() -> None:
    """Arguments: the mode, the suite's address, a job's name."""
    mode, address, name = sys.argv[1:]
    with finetree.Client(address) as client:
        call(client)
        said, errors = MODES[mode](client, name)
        after = call(client)
    sys.stdout.write(json.dumps({"children": said, "errors": errors, "after": after}))


if __name__ == "__main__":
    main()
