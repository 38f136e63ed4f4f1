# SPDX-License-Identifier: Apache-2.0
"""Metadata of a block of code goes with its calls and with those of the tasks that it starts."""

import asyncio

from finetree import Client, call_metadata
from finetree._shared import channels
from finetree.metadata import current


def sent(client: Client) -> dict[str, str | bytes]:
    token = channels.own_token(client.options, "trainer")
    return dict(channels.metadata(channels.new_request_id(), token.value() if token is not None else ""))


def test_entries_take_the_place_of_the_clients_own():
    with Client("http://127.0.0.1:1", token="own") as client:
        with call_metadata({"authorization": "Bearer other", "x-request-id": "r-1", "tracestate": "a=b"}):
            assert sent(client) == {"authorization": "Bearer other", "x-request-id": "r-1", "tracestate": "a=b"}
        assert sent(client)["authorization"] == "Bearer own"
        assert sent(client)["x-request-id"] != "r-1"


def test_blocks_nest():
    with call_metadata({"a": "1", "b": "1"}), call_metadata({"b": "2"}):
        assert current() == {"a": "1", "b": "2"}
    assert current() == {}


def test_each_task_has_its_own():
    async def one(name: str) -> str:
        with call_metadata({"x-request-id": name}):
            await asyncio.sleep(0)
            return await asyncio.create_task(inner())

    async def inner() -> str:
        return channels.new_request_id()

    async def both() -> list[str]:
        return await asyncio.gather(one("a"), one("b"))

    assert asyncio.run(both()) == ["a", "b"]
