# SPDX-License-Identifier: Apache-2.0
"""Every method of the three services, to be called with raw bytes."""

import grpc
import pytest
from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.recommender.v1 import recommender_pb2
from finetree_api.trainer.v1 import trainer_pb2
from google.protobuf.descriptor import MethodDescriptor

SECONDS = 60.0
"""Longest time for an answer; what a request may cost is measured in processor time."""
WAITING_SECONDS = 2.0
"""The same where a request may ask to wait."""
WAITS = {"GetCapacity"}
"""Methods that a request may ask to wait, longer than this test does."""
SERVICES = {
    "estimator": estimator_pb2.DESCRIPTOR.services_by_name["EstimatorService"],
    "recommender": recommender_pb2.DESCRIPTOR.services_by_name["RecommenderService"],
    "trainer": trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"],
}
METHODS = [
    pytest.param(name, method, id=method.full_name.removeprefix("finetree_api."))
    for name, service in SERVICES.items()
    for method in service.methods
    if not method.client_streaming
]


def call(channel: grpc.Channel, method: MethodDescriptor, request: bytes) -> grpc.RpcError | None:
    """One call with raw bytes; the error, if that is what it gave. Of a stream only the first message is read."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    seconds = WAITING_SECONDS if method.name in WAITS else SECONDS
    try:
        if method.server_streaming:
            stream = channel.unary_stream(path)(request, timeout=seconds)
            next(iter(stream), None)
            stream.cancel()
        else:
            channel.unary_unary(path)(request, timeout=seconds)
    except grpc.RpcError as error:
        return error
    return None
