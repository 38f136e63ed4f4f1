# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own HTTP/2 client against a real server: every call is answered once, and a failure is told."""

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import wrappers_pb2

sys.path.append(str(Path(__file__).parents[3] / "benchmarks" / "estimator"))

from open_loop import LoadError, latencies

PATH = "/probe.Probe/Echo"


@pytest.fixture
async def server():
    """The address of a server that answers with what it is asked ten times, and what it was asked; 13 fails."""
    asked = []

    async def echo(request: wrappers_pb2.BytesValue, context: Any) -> wrappers_pb2.BytesValue:
        asked.append(request.value)
        if request.value == b"13":
            await context.abort(grpc.StatusCode.INTERNAL, "thirteen")
        return wrappers_pb2.BytesValue(value=request.value * 10)

    handler = grpc.unary_unary_rpc_method_handler(
        echo, wrappers_pb2.BytesValue.FromString, wrappers_pb2.BytesValue.SerializeToString
    )
    running = grpc.aio.server()
    running.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("probe.Probe", {"Echo": handler})])
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    yield f"127.0.0.1:{port}", asked
    await running.stop(None)


def bodies(*values: bytes) -> list[bytes]:
    return [wrappers_pb2.BytesValue(value=value).SerializeToString() for value in values]


async def test_each_call_is_made_once_in_turn_and_its_answer_timed(server):
    address, asked = server
    taken = await asyncio.to_thread(latencies, address, PATH, bodies(b"1", b"2", b"3"), rate=500, seconds=0.6)
    # Calls that are under way together may be taken up in any order.
    assert Counter(asked) == {b"1": 100, b"2": 100, b"3": 100}
    assert len(taken) == 300
    assert taken == sorted(taken)
    assert taken[0] > 0


async def test_a_call_that_fails_ends_the_measurement(server):
    address, _ = server
    with pytest.raises(LoadError, match="a call failed"):
        await asyncio.to_thread(latencies, address, PATH, bodies(b"1", b"13"), rate=500, seconds=1)


async def test_more_is_sent_than_a_window_holds(server):
    address, asked = server
    taken = await asyncio.to_thread(latencies, address, PATH, bodies(b"x" * 2000), rate=200, seconds=1)
    assert len(taken) == len(asked) == 200
    assert sum(map(len, asked)) > 65_535
