# SPDX-License-Identifier: Apache-2.0
import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from finetree_api.estimator.v1 import estimator_pb2_grpc
from finetree_api.trainer.v1 import trainer_pb2_grpc


def load(name: str, file: str) -> ModuleType:
    """Import a file of this folder under a name: test folders are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


load("full_requests", "full_requests.py")


@pytest.fixture(scope="session")
def program():
    """The test service as a module."""
    return load("finetree_probe_program", "program.py")


@dataclasses.dataclass
class Client:
    """Stubs of a running service."""

    channel: grpc.aio.Channel
    estimator: estimator_pb2_grpc.EstimatorServiceStub
    trainer: trainer_pb2_grpc.TrainerServiceStub


@pytest.fixture
def connect():
    """A context manager that gives the stubs of the service at an address."""

    class Connection:
        def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
            self._address, self._credentials = address, credentials

        async def __aenter__(self) -> Client:
            make = grpc.aio.insecure_channel if self._credentials is None else grpc.aio.secure_channel
            self._channel = make(self._address, *([self._credentials] if self._credentials else []))
            estimator = estimator_pb2_grpc.EstimatorServiceStub(self._channel)
            return Client(self._channel, estimator, trainer_pb2_grpc.TrainerServiceStub(self._channel))

        async def __aexit__(self, *_: object) -> None:
            await self._channel.close()

    return Connection
