# SPDX-License-Identifier: Apache-2.0
"""A program that uses a client, forks, and tells what became of its children. `fork_matrix.py` and the tests run it.

    python benchmarks/sdk/forking.py STATE ADDRESS JOB CHILDREN

Each child makes a call and says how many methods it was told; in the other states what they are about. The suite is in
another process, so that no server is forked.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import finetree

CHILD_SECONDS = 20.0
"""Seconds after which a child counts as hung; its call has a deadline of 10."""
CALL_SECONDS = 10.0
THREADS = 4


@dataclass
class Told:
    """What the children said, and what went wrong in the parent meanwhile."""

    children: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def forked(child: Callable[[], str]) -> str:
    """What a forked child says, or how it ended: "hang", "signal 11"."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        started = time.process_time()
        try:
            said = child()
        except finetree.ForkedClientError as error:
            said = f"refused in {1000 * (time.process_time() - started):.0f} ms: {error}"
        except BaseException as error:  # noqa: BLE001 - the child tells everything and never returns into the parent
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    status = reaped(pid)
    with os.fdopen(reading, "rb") as pipe:
        return status or pipe.read().decode()


def reaped(pid: int) -> str:
    """How a child ended that did not say it itself; empty if it did."""
    deadline = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ""
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hang"


def call(client: finetree.Client) -> str:
    """A call, as a child makes it."""
    return f"ok {len(client.list_methods(timeout=CALL_SECONDS))}"


def call_alone(client: finetree.AsyncClient) -> str:
    """An asynchronous call in a loop of its own; a child inherits the mark of its parent's running loop."""
    asyncio.events._set_running_loop(None)  # noqa: SLF001 - there is no public way, and os.fork() leaves it set
    loop = asyncio.new_event_loop()
    methods = loop.run_until_complete(client.list_methods(timeout=CALL_SECONDS))
    return f"ok {len(methods)}"


def background(work: Callable[[], object]) -> tuple[Callable[[], None], list[str]]:
    """Threads that work until the first value is called, which waits for them, and the errors that they met."""
    stop, errors = threading.Event(), list[str]()

    def loop() -> None:
        while not stop.is_set():
            try:
                work()
            except finetree.FinetreeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=loop, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()

    def end() -> None:
        stop.set()
        for thread in threads:
            thread.join(CALL_SECONDS)

    return end, errors


def never_used(client: finetree.Client, _job: str, children: int) -> Told:
    """A client is made and never used before the fork."""
    return Told([forked(lambda: call(client)) for _ in range(children)])


def idle(client: finetree.Client, _job: str, children: int) -> Told:
    """A client was used and is idle; the child goes on with it."""
    call(client)
    return Told([forked(lambda: call(client)) for _ in range(children)])


def new_client(client: finetree.Client, _job: str, children: int) -> Told:
    """A client was used and is idle; the child makes one of its own to the same address."""
    call(client)
    address = client.options.targets["trainer"].address

    def child() -> str:
        with finetree.Client(address) as own:
            return call(own)

    return Told([forked(child) for _ in range(children)])


def streams(client: finetree.Client, job: str, children: int) -> Told:
    """Four event streams are open and being read."""
    opened = [client.job(job).events(heartbeat=0.2) for _ in range(THREADS)]
    for stream in opened:
        next(stream)
    for stream in opened:
        threading.Thread(target=lambda s=stream: list(s), daemon=True).start()
    return Told([forked(lambda: call(client)) for _ in range(children)])


def unary(client: finetree.Client, _job: str, children: int) -> Told:
    """Four threads are inside unary calls all the time."""
    end, errors = background(lambda: call(client))
    said = [forked(lambda: call(client)) for _ in range(children)]
    end()
    return Told(said, errors)


def streams_and_unary(client: finetree.Client, job: str, children: int) -> Told:
    """Four event streams are being read and four threads are inside unary calls."""
    opened = [client.job(job).events(heartbeat=0.2) for _ in range(THREADS)]
    for stream in opened:
        next(stream)
        threading.Thread(target=lambda s=stream: list(s), daemon=True).start()
    return unary(client, job, children)


def inherited_stream(client: finetree.Client, job: str, children: int) -> Told:
    """A child goes on with its parent's stream, and so does the parent."""
    # More than one message of the stream holds, so that a child must attach.
    there = [event.seq for event in client.job(job).list_events(kinds=["step_metrics"])]
    stream = client.job(job).events(kinds=["step_metrics"], heartbeat=0.2)
    seen = [next(stream).seq]

    def rest() -> list[int]:
        return seen + [next(stream).seq for _ in there[1:]]

    said = [forked(lambda: "ok" if rest() == there else "events are lost") for _ in range(children)]
    return Told(said, [] if rest() == there else ["the parent lost events"])


def aio_open(client: finetree.Client, _job: str, children: int) -> Told:
    """An AsyncClient is open; the child uses it."""
    return _with_open_async_client(client, children, call_alone)


def aio_open_new_client(client: finetree.Client, _job: str, children: int) -> Told:
    """An AsyncClient is open; the child makes another one."""

    def child(opened: finetree.AsyncClient) -> str:
        return call_alone(finetree.AsyncClient(opened.options.targets["trainer"].address))

    return _with_open_async_client(client, children, child)


def aio_open_sync_child(client: finetree.Client, _job: str, children: int) -> Told:
    """An AsyncClient is open; the child uses the synchronous one."""
    return _with_open_async_client(client, children, lambda _opened: call(client))


def aio_closed(client: finetree.Client, _job: str, children: int) -> Told:
    """An AsyncClient was closed before the fork; the child makes one of its own."""
    address = client.options.targets["trainer"].address

    async def use() -> None:
        async with finetree.AsyncClient(address) as own:
            await own.list_methods(timeout=CALL_SECONDS)

    asyncio.run(use())
    return Told([forked(lambda: call_alone(finetree.AsyncClient(address))) for _ in range(children)])


def _with_open_async_client(
    client: finetree.Client, children: int, child: Callable[[finetree.AsyncClient], str]
) -> Told:
    async def parent() -> Told:
        async with finetree.AsyncClient(client.options.targets["trainer"].address) as opened:
            await opened.list_methods()
            return Told([forked(lambda: child(opened)) for _ in range(children)])

    return asyncio.run(parent())


STATES = {
    function.__name__: function
    for function in (
        never_used,
        idle,
        new_client,
        streams,
        unary,
        streams_and_unary,
        inherited_stream,
        aio_open,
        aio_open_new_client,
        aio_open_sync_child,
        aio_closed,
    )
}


def main() -> None:
    """Arguments: the state, the suite's address, a job that goes on, how many children."""
    state, address, job, children = sys.argv[1:]
    with finetree.Client(address) as client:
        told = STATES[state](client, job, int(children))
        after = call(client)
    sys.stdout.write(json.dumps({"children": told.children, "errors": told.errors, "after": after}))


if __name__ == "__main__":
    main()
