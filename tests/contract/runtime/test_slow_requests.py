# SPDX-License-Identifier: Apache-2.0
"""No request of the allowed size holds the event loop, whatever it is full of.

Every request type of the public services is sent with as many elements as fit into it, in each list and map that it can
hold, one after the other. Handlers do nothing here, so that what is measured is the runtime's: parsing, validation and
the error.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import grpc
import pytest
from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.recommender.v1 import recommender_pb2
from finetree_api.trainer.v1 import trainer_pb2
from finetree_estimator import settings as estimator_settings
from finetree_recommender import settings as recommender_settings
from finetree_runtime.config.settings import ServiceSettings
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.server import validation
from finetree_runtime.server.service import Service, serving
from finetree_trainer import settings as trainer_settings
from full_requests import lists_of, request_of, width
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

LIMIT_SECONDS = 0.05
"""CPU time of the loop's thread that a request may take between two turns of the loop."""
SLACK = 4
"""How much slower than a usual core the machine may be."""
WAIT = 60
LARGEST = {
    estimator_pb2: estimator_settings.Settings().max_request_bytes,
    recommender_pb2: recommender_settings.Settings().max_request_bytes,
    trainer_pb2: trainer_settings.Settings().max_request_bytes,
}
"""Bytes of a request that each service takes by default."""


CASES = [
    (service, method, largest)
    for module, largest in LARGEST.items()
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if any(True for _ in lists_of(method.input_type))
]


def do_nothing(method: MethodDescriptor) -> grpc.RpcMethodHandler:
    """A handler that reads what it is sent and answers with nothing."""

    async def unary(request, rpc) -> Message:
        return response()

    async def read_all(requests, rpc) -> Message:
        async for _ in requests:
            pass
        return response()

    response = GetMessageClass(method.output_type)
    read = GetMessageClass(method.input_type).FromString
    if method.client_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler if method.server_streaming else grpc.stream_unary_rpc_method_handler
        )
        return make(stream_of(read_all) if method.server_streaming else read_all, read, response.SerializeToString)
    make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
    return make(stream_of(unary) if method.server_streaming else unary, read, response.SerializeToString)


def stream_of(handler):
    async def stream(request, rpc) -> AsyncIterator[Message]:
        yield await handler(request, rpc)

    return stream


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of all services, whose handlers do nothing."""
    settings = ServiceSettings(address="127.0.0.1:0", log_level="error", max_request_bytes=max(LARGEST.values()))
    service = Service("probe", "1", settings)
    for descriptor in dict.fromkeys(service for service, _, _ in CASES):
        handlers = {method.name: do_nothing(method) for method in descriptor.methods}

        def add(_, server, name=descriptor.full_name, handlers=handlers) -> None:
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

        service.add(add, None, descriptor.full_name)
    async with serving(service) as address, grpc.aio.insecure_channel(address) as opened:
        yield opened


@contextlib.asynccontextmanager
async def longest_turn() -> AsyncIterator[SimpleNamespace]:
    """Measure the CPU time of this thread between two turns of the loop; `seconds` is the longest."""
    found = SimpleNamespace(seconds=0.0)

    async def watch() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            found.seconds = max(found.seconds, time.thread_time() - before)

    watching = asyncio.create_task(watch())
    try:
        yield found
    finally:
        watching.cancel()


async def code_of(channel: grpc.aio.Channel, service: ServiceDescriptor, method: MethodDescriptor, raw: bytes) -> str:
    """Send a request as bytes; the code of the answer."""
    path = f"/{service.full_name}/{method.name}"
    requests = iter([raw])
    try:
        if method.client_streaming and method.server_streaming:
            await channel.stream_stream(path)(requests, timeout=WAIT).read()
        elif method.client_streaming:
            await channel.stream_unary(path)(requests, timeout=WAIT)
        elif method.server_streaming:
            await channel.unary_stream(path)(raw, timeout=WAIT).read()
        else:
            await channel.unary_unary(path)(raw, timeout=WAIT)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


@pytest.mark.parametrize(
    ("service", "method", "largest"),
    CASES,
    ids=[f"{service.full_name.split('.')[1]}-{method.name}" for service, method, _ in CASES],
)
async def test_a_request_full_of_elements_is_answered_within_a_turn(channel, service, method, largest):
    for path in lists_of(method.input_type):
        name = ".".join(field.name for field in path)
        raw = request_of(path, (largest - 256) // width(path[-1]))
        assert 0.7 * largest < len(raw) <= largest, name
        async with longest_turn() as turn:
            code = await code_of(channel, service, method, raw)
        assert code == "INVALID_ARGUMENT", name
        assert turn.seconds < LIMIT_SECONDS * SLACK, name


@pytest.mark.parametrize("method", [method for _, method, _ in CASES], ids=lambda method: method.name)
def test_a_request_with_as_many_elements_as_are_validated_takes_no_longer(method):
    validation.compile_rules([method.input_type.full_name])
    for path in lists_of(method.input_type):
        raw = request_of(path, validation.MAX_ELEMENTS - len(path))
        message = GetMessageClass(method.input_type).FromString(raw)
        before = time.thread_time()
        with contextlib.suppress(InvalidArgument):
            validation.validate(message)
        assert time.thread_time() - before < LIMIT_SECONDS * SLACK, path
