# SPDX-License-Identifier: Apache-2.0
"""The rpcs of the three services, read from the contract's descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.recommender.v1 import recommender_pb2
from finetree_api.trainer.v1 import trainer_pb2
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

FILES = (recommender_pb2.DESCRIPTOR, estimator_pb2.DESCRIPTOR, trainer_pb2.DESCRIPTOR)
"""Files of the contract that declare a service for clients."""


@dataclass(frozen=True, slots=True)
class Method:
    """An rpc.

    Attributes:
        service: short name of its service, such as "trainer".
        path: of the URL, "/trainer/v1/GetJob".
        rpc: path in gRPC, "/finetree_api.trainer.v1.TrainerService/GetJob".
        request: type of its request message.
        response: type of its response message.
        safe: whether it changes nothing, so that a GET may call it.
        client_streaming: whether the request is a stream.
        server_streaming: whether the response is one.
    """

    service: str
    path: str
    rpc: str
    request: type[Message]
    response: type[Message]
    safe: bool
    client_streaming: bool
    server_streaming: bool

    @property
    def name(self) -> str:
        """Name of the rpc, such as "GetJob"."""
        return self.path.rpartition("/")[2]

    @property
    def unary(self) -> bool:
        """Whether neither side is a stream."""
        return not (self.client_streaming or self.server_streaming)


def services() -> list[ServiceDescriptor]:
    """Services of the contract that clients call."""
    return [service for file in FILES for service in file.services_by_name.values()]


def methods() -> Iterator[Method]:
    """Every rpc, in the order of the contract."""
    for service in services():
        for method in service.methods:
            yield _method(service, method)


def method_of(request: type[Message]) -> Method:
    """Find the rpc that takes a message."""
    return next(method for method in methods() if method.request.DESCRIPTOR is request.DESCRIPTOR)


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    name, version = service.file.package.split(".")[1:3]
    level = method.GetOptions().idempotency_level
    return Method(
        service=name,
        path=f"/{name}/{version}/{method.name}",
        rpc=f"/{service.full_name}/{method.name}",
        request=message_factory.GetMessageClass(method.input_type),
        response=message_factory.GetMessageClass(method.output_type),
        safe=level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
    )
