# SPDX-License-Identifier: Apache-2.0
"""Server reflection in both of its versions, so that a client without the .proto files can list and call.

grpcio-reflection serves grpc.reflection.v1alpha alone (grpc#38576). The messages of v1 have the same fields with the
same numbers, and differ only in the name of the package: the same servicer answers both, and the file that describes
v1 is made from that of v1alpha.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc import aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
V1 = "grpc.reflection.v1.ServerReflection"
"""Full names of the service."""
_V1_FILE = "grpc/reflection/v1/reflection.proto"


def add_reflection(server: aio.Server, services: Iterable[str]) -> None:
    """Let a server answer what services it has and what their messages are.

    Args:
        server: One that is not started yet.
        services: Full names of what it serves; both versions of reflection are listed besides.
    """
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer([*services, V1ALPHA, V1])
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": handler})])


def _describe_v1() -> None:
    """Add the file of v1 to the descriptors that are answered from, unless another library has brought it."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_V1_FILE)
    except KeyError:
        alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        text = text_format.MessageToString(alpha).replace("reflection.v1alpha", "reflection.v1")
        described = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
        described.name = _V1_FILE
        pool.AddSerializedFile(described.SerializeToString())
