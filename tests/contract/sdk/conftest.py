# SPDX-License-Identifier: Apache-2.0
"""A fake suite, and both clients behind one way of calling them."""

import asyncio
import inspect
from typing import Any

import pytest
from finetree.testing import Suite
from held_port import held_port

SPEC = {"model": {"name": "tiny"}, "lora": {"rank": 8}, "hardware": {"accelerator": "rtx-4090"}}
ROWS = [{"prompt": "Two and two?", "completion": "Four."}]


@pytest.fixture
def suite():
    # Its own also while nothing listens there.
    with Suite(port=held_port()) as running:
        yield running


@pytest.fixture
def spec(suite):
    """A spec that trains on a dataset of the suite."""
    return SPEC | {"dataset": {"name": suite.datasets.add(ROWS).name}}


class Driver:
    """Calls either client and gives plain values: awaits what is to be awaited, collects what is to be iterated."""

    def __init__(self, suite, *, aio: bool) -> None:
        self.suite, self.aio = suite, aio
        self.runner = asyncio.Runner() if aio else None
        self.opened = []

    def client(self, **options: object):
        client = self.suite.async_client(**options) if self.aio else self.suite.client(**options)
        self.opened.append(client)
        return client

    def __call__(self, value) -> Any:
        return self.runner.run(awaited(value)) if inspect.isawaitable(value) else value

    def all(self, iterable, limit=None):
        if not self.aio:
            return [item for _, item in zip(range(limit or 10**9), iterable, strict=False)]
        return self.runner.run(collected(iterable, limit))

    def close(self):
        for client in self.opened:
            self(client.close())
        if self.runner is not None:
            self.runner.close()


async def awaited(value):
    return await value


async def collected(iterable, limit):
    items = []
    async for item in iterable:
        items.append(item)
        if limit is not None and len(items) == limit:
            break
    return items


@pytest.fixture(params=["sync", "async"])
def do(request, suite):
    driver = Driver(suite, aio=request.param == "async")
    yield driver
    driver.close()
