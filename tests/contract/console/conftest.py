# SPDX-License-Identifier: Apache-2.0
"""A fake suite and a console in front of it, both on loopback ports of this process."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from finetree.testing import Suite
from finetree_console.application import build
from finetree_console.server.listener import address_of, bind
from finetree_console.server.server import Server
from finetree_console.settings import Settings

STARTED_SECONDS = 60
ADDRESSES = ("recommender_address", "estimator_address", "trainer_address")


@contextlib.contextmanager
def serving(suite: Suite | None, *, send_buffer: int | None = None, **given: Any) -> Iterator[str]:
    """Run a console for a suite, or for addresses that are given; the value is its HOST:PORT."""
    own = {} if suite is None else dict.fromkeys(ADDRESSES, suite.address)
    settings = Settings(port=0, **{**own, **given})
    listener = bind(settings)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    ready = threading.Event()
    running = Server(build(settings), settings, ready.set)
    thread = threading.Thread(target=running.run, args=([listener],), name="console")
    address = address_of(listener)
    thread.start()
    try:
        assert ready.wait(STARTED_SECONDS)
        yield address
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def serve():
    """Runs another console, with settings of its own."""
    return serving


@pytest.fixture(scope="module")
def suite():
    with Suite() as running:
        running.datasets.files["rows.jsonl"] = b'{"prompt": "One and one?", "completion": "Two."}\n'
        yield running


@pytest.fixture(scope="module")
def address(suite):
    with serving(suite) as bound:
        yield bound


@pytest.fixture(scope="module")
def http(address):
    with httpx2.Client(base_url=f"http://{address}", timeout=60) as client:
        yield client
