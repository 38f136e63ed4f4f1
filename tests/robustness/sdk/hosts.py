# SPDX-License-Identifier: Apache-2.0
"""Programs in which processes and loops come and go while they use one client. Run by test_hosts.py."""

import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable

import finetree

WORKERS = 4
REQUESTS = 200
client: finetree.Client


def prefork(address: str) -> object:
    """A server in the manner of `gunicorn --preload`: one client, used before the fork, workers that share a socket.

    A worker answers ten requests and is replaced, while the parent goes on calling.
    """
    shared = finetree.Client(address)
    shared.list_methods()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        workers = {_worker(listening, shared) for _ in range(WORKERS)}
        answers = Counter[str]()
        errors: list[str] = []
        asking = threading.Thread(target=_ask, args=(port, answers))
        asking.start()
        while asking.is_alive():
            done, status = os.waitpid(-1, os.WNOHANG)
            if done:
                workers.remove(done)
                errors += [] if status == 0 else [f"a worker ended with {status}"]
                workers.add(_worker(listening, shared))
            shared.list_methods()
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
    return {"answers": answers, "errors": errors}


def _worker(listening: socket.socket, shared: finetree.Client) -> int:
    pid = os.fork()
    if pid:
        return pid
    with contextlib.suppress(BaseException):
        for _ in range(10):
            connection, _ = listening.accept()
            with connection:
                try:
                    said = f"ok {len(shared.list_methods(timeout=60))}"
                except finetree.FinetreeError as error:
                    said = str(error)
                connection.sendall(said.encode())
        os._exit(0)
    os._exit(1)


def _ask(port: int, answers: Counter[str]) -> None:
    for _ in range(REQUESTS):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            answers[connection.recv(1000).decode()] += 1


def pools(address: str) -> object:
    """A process pool of every start method; each task uses the client of its process, or one that travelled."""
    global client  # noqa: PLW0603 - as a module of an application has it, which a forked worker inherits
    client = finetree.Client(address, token="secret-of-the-parent", tls=False)
    client.list_methods()
    told = {}
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            work = _inherited if method == "fork" else _travelled
            told[method] = [Counter(pool.map(work, [client] * 20)), _raised(pool)]
    return told


def _inherited(_client: finetree.Client) -> str:
    return f"ok {len(client.list_methods(timeout=60))}"


def _travelled(arrived: finetree.Client) -> str:
    return f"ok {len(arrived.list_methods(timeout=60))}"


def _fails(arrived: finetree.Client) -> None:
    arrived.get_job("nothing")


def _raised(pool: object) -> str:
    try:
        pool.apply(_fails, (client,))
    except finetree.NotFound as error:
        return error.reason
    return "nothing"


def loops(address: str) -> object:
    """One AsyncClient in many loops: one after another, closed and forgotten, and several at once in threads."""
    shared = finetree.AsyncClient(address)

    async def use() -> int:
        return len((await asyncio.gather(*(shared.list_methods() for _ in range(20))))[0])

    one_after_another = [asyncio.run(use()) for _ in range(10)]
    gc.collect()
    kept = len(shared._transport._connections._open)
    at_once: list[int] = []
    threads = [threading.Thread(target=lambda: at_once.append(asyncio.run(use()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"one_after_another": one_after_another, "at_once": at_once, "kept": kept}


HOSTS: dict[str, Callable[[str], object]] = {function.__name__: function for function in (prefork, pools, loops)}


if __name__ == "__main__":
    json.dump(HOSTS[sys.argv[1]](sys.argv[2]), sys.stdout)
