# SPDX-License-Identifier: Apache-2.0
"""The unmodified `openai` client, alone and behind a proxy that loses answers."""

import contextlib
import importlib.util
import socket
import threading
from pathlib import Path

import openai
import pytest
from finetree.testing import Suite

ROWS = b"".join(
    b'{"messages": [{"role": "user", "content": "Question %d?"}, {"role": "assistant", "content": "%d."}]}\n' % (n, n)
    for n in range(20)
)


@pytest.fixture(scope="session")
def serving():
    """`serving(suite)` of the folder above: test folders are no packages."""
    spec = importlib.util.spec_from_file_location("console_conftest", Path(__file__).parents[1] / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.serving


@pytest.fixture
def apart(serving):
    """A suite of this test alone, and the address of a console in front of it."""
    with Suite() as suite, serving(suite) as bound:
        yield suite, bound


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"http://{address}/v1", api_key="key-of-a-test") as made:
        yield made


@pytest.fixture
def training_file(client):
    return client.files.create(file=("train.jsonl", ROWS), purpose="fine-tune").id


class LosingProxy:
    """Passes connections on; of the next answers it passes only the given number of bytes, then it hangs up."""

    def __init__(self, upstream: str) -> None:
        host, port = upstream.split(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.losses: list[int] = []
        self.lost = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(near,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._upstream) as far:
            back = threading.Thread(target=self._answer, args=(far, near))
            back.start()
            with contextlib.suppress(OSError):
                while data := near.recv(65536):
                    far.sendall(data)
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_WR)
            back.join()

    def _answer(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                if self.losses:
                    near.sendall(data[: self.losses.pop(0)])
                    self.lost += 1
                    break
                near.sendall(data)
        for side in (near, far):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(address):
    made = LosingProxy(address)
    yield made
    made.close()
