# SPDX-License-Identifier: Apache-2.0
import json
from types import SimpleNamespace

import grpc
import pytest
from finetree.testing import Suite
from finetree_api.estimator.v1 import estimate_pb2, estimator_pb2_grpc
from finetree_estimator.catalog import price_book
from finetree_estimator.servicer import SERVICE, EstimatorServicer
from finetree_estimator.settings import NAME, Settings
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.server.service import Service, serving
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

LARGE_REPLIES = [("grpc.max_receive_message_length", 16 << 20)]
"""Of a full batch, as the SDK has it; gRPC's default is 4 MiB."""
METHODS = {"full", "lora", "qlora", "prefix", "adapter"}


@pytest.fixture
async def channel(served_by):
    """A channel to an estimator that serves on loopback: the service, or the SDK's fake suite."""
    if served_by == "suite":
        with Suite() as suite:
            async with grpc.aio.insecure_channel(suite.address, LARGE_REPLIES) as channel:
                yield channel
        return
    servicer = EstimatorServicer(Knowledge(price_book.packaged()))
    service = Service(NAME, "0", Settings(address="127.0.0.1:0", log_level="error"))
    service.add(estimator_pb2_grpc.add_EstimatorServiceServicer_to_server, servicer, SERVICE)
    async with serving(service) as address, grpc.aio.insecure_channel(address, LARGE_REPLIES) as channel:
        yield channel


@pytest.fixture
def stub(channel):
    """A stub of that estimator."""
    return estimator_pb2_grpc.EstimatorServiceStub(channel)


@pytest.fixture
def request_of():
    """An EstimateRunRequest from JSON, by default of a LoRA run on an RTX 4090, with parts of the spec replaced."""

    def make(spec: dict[str, object] | None = None, **parts: object) -> estimate_pb2.EstimateRunRequest:
        method = {} if METHODS & (spec or {}).keys() else {"lora": {}}
        whole = {"model": {"name": "llama-3.2-3b"}, "hardware": {"accelerator": "rtx-4090"}} | method | (spec or {})
        body = {"spec": whole, "dataset_profile": {"examples": 1000, "total_tokens": 200_000}} | parts
        return json_format.Parse(json.dumps(body), estimate_pb2.EstimateRunRequest())

    return make


def status_of(error: grpc.aio.AioRpcError | status_pb2.Status) -> SimpleNamespace:
    """Code, message, reason and violated fields of an error."""
    status = error
    if isinstance(error, grpc.aio.AioRpcError):
        packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(packed)
    found = SimpleNamespace(code=status.code, message=status.message, reason="", domain="", fields=[])
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            found.reason, found.domain = info.reason, info.domain
        elif detail.Unpack(bad):
            found.fields = [violation.field for violation in bad.field_violations]
    return found


@pytest.fixture
def explain():
    return status_of
