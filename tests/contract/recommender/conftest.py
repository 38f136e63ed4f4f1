# SPDX-License-Identifier: Apache-2.0
"""The recommender on loopback, beside a real estimator, without one, or beside one that never answers."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import finetree
import pytest
from finetree.testing import Suite
from finetree_recommender.__main__ import service
from finetree_recommender.settings import Settings
from finetree_runtime.server.service import serving

START_SECONDS = 60


@contextlib.contextmanager
def running(module: str, folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A service as its own process; the value holds its address."""
    ready = folder / f"{module}.json"
    command = [sys.executable, "-m", module, "--address", "127.0.0.1:0", "--ready-file", str(ready), *flags]
    log = folder / f"{module}.log"  # a pipe that nobody reads fills up, and stops who writes to it
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{module} did not start: {log.read_bytes()[:2000]!r}")
            time.sleep(0.01)
        yield process, json.loads(ready.read_text())["address"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


@pytest.fixture(scope="session")
def estimator_address(tmp_path_factory):
    """Address of a real estimator."""
    with running("finetree_estimator", tmp_path_factory.mktemp("estimator")) as (_, address):
        yield address


@contextlib.asynccontextmanager
async def connected(
    estimator: str, estimator_time: float = 2.0, rule_pack_dir: Path | None = None
) -> AsyncIterator[finetree.AsyncClient]:
    """A client of a recommender that asks the estimator at an address."""
    settings = Settings(
        address="127.0.0.1:0",
        estimator_address=estimator,
        estimator_time=estimator_time,
        rule_pack_dir=rule_pack_dir,
        log_level="error",
    )
    async with serving(service(settings)) as address:
        client = finetree.AsyncClient(recommender_address=address, estimator_address=estimator)
        try:
            yield client
        finally:
            await client.close()


@pytest.fixture
def program():
    """`program(module, folder, *flags)`: a service as its own process."""
    return running


@pytest.fixture
def recommender():
    """`recommender(estimator_address, estimator_time=2.0)`: a client of a recommender of one's own."""
    return connected


@pytest.fixture
async def client(served_by, request):
    """A client of a recommender with a real estimator, or of the SDK's fake suite."""
    if served_by == "suite":
        with Suite() as suite:
            async with suite.async_client() as made:
                yield made
        return
    async with connected(request.getfixturevalue("estimator_address")) as made:
        yield made


@pytest.fixture
def free_address():
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
async def silent_address():
    """An address that takes connections and never says a word."""
    held = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for writer in held:
        writer.close()
    server.close()
