# SPDX-License-Identifier: Apache-2.0
"""A small real service, run as a program by the tests: it has one handler of each kind that the runtime surrounds."""

import asyncio
import dataclasses
import sys

from finetree._shared.channels import trace_context
from finetree_api.estimator.v1 import catalog_pb2, estimator_pb2, estimator_pb2_grpc
from finetree_api.trainer.v1 import dataset_pb2, event_log_pb2, trainer_pb2_grpc
from finetree_runtime import errors
from finetree_runtime.config.settings import ServiceSettings, load_or_exit
from finetree_runtime.server import context, identity
from finetree_runtime.server.service import Service, run

ESTIMATOR = "finetree_api.estimator.v1.EstimatorService"
TRAINER = "finetree_api.trainer.v1.TrainerService"
SECRET = "the password is swordfish"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    """Nothing of its own."""


class Estimator(estimator_pb2_grpc.EstimatorServiceServicer):
    """Unary handlers; what ListModels does is told by the prefix."""

    def __init__(self) -> None:
        self.begun = []
        """Prefixes of the calls that were begun and not yet let go, in their order."""
        self.let_go = asyncio.Event()

    async def GetServerInfo(self, request, context):
        return estimator_pb2.GetServerInfoResponse(server=identity.server_info("probe", "1.2.3", limits={"bytes": 7}))

    async def EstimateRun(self, request, context):
        return estimator_pb2.EstimateRunResponse()

    async def BatchEstimateRuns(self, request, context):
        return estimator_pb2.BatchEstimateRunsResponse()

    async def ListPrices(self, request, context):
        """Waits for ever, so that the time limit of a call ends it."""
        await asyncio.Event().wait()

    async def ListModels(self, request, rpc):
        match request.prefix:
            case "crash":
                raise RuntimeError(SECRET)
            case "missing":
                raise errors.NotFound("MODEL_NOT_FOUND", "no such model: see ListModels", metadata={"model": "x"})
            case "busy":
                raise errors.ResourceExhausted("QUEUE_FULL", "the queue is full: try later", retry_delay=1.5)
            case "state":
                faults = [("spec.model", "not prepared", "MODEL_NOT_PREPARED")]
                raise errors.FailedPrecondition("MODEL_NOT_PREPARED", "run a PREPARE job first", violations=faults)
            case "sleep":
                await asyncio.Event().wait()
            case "hold" | "wait":
                if request.prefix == "wait":
                    context.only_waits()
                self.begun.append(request.prefix)
                await self.let_go.wait()
            case "trace":
                return catalog_pb2.ListModelsResponse(next_page_token=trace_context())
            case "remaining":
                left = context.remaining()
                return catalog_pb2.ListModelsResponse(next_page_token="none" if left is None else f"{left:.3f}")
        context.bind(prefix=request.prefix)
        return catalog_pb2.ListModelsResponse(next_page_token=context.request_id())


class Trainer(trainer_pb2_grpc.TrainerServiceServicer):
    """Streaming handlers."""

    def __init__(self, draining: asyncio.Event) -> None:
        self._draining = draining
        self.closed = asyncio.Event()

    async def WatchJob(self, request, rpc):
        """Says once that it is there, then waits; says goodbye when the server stops."""
        try:
            yield event_log_pb2.WatchJobResponse()
            while request.name == "flood":
                yield event_log_pb2.WatchJobResponse(cursor="x" * 100_000)
            if request.name == "crash":
                raise RuntimeError(SECRET)
            if request.name != "deaf":
                await self._draining.wait()
                yield event_log_pb2.WatchJobResponse(cursor="goodbye")
                raise errors.Unavailable("SERVER_DRAINING", "the server stops: attach again")
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def WriteDataset(self, request_iterator, rpc):
        received = 0
        async for _ in request_iterator:
            received += 1
        return dataset_pb2.WriteDatasetResponse(dataset=dataset_pb2.Dataset(committed_bytes=received))


def build(settings):
    """The service, not yet started."""
    service = Service("probe", "1.2.3", settings)
    service.add(estimator_pb2_grpc.add_EstimatorServiceServicer_to_server, Estimator(), ESTIMATOR)
    service.add(trainer_pb2_grpc.add_TrainerServiceServicer_to_server, Trainer(service.draining), TRAINER)
    return service


if __name__ == "__main__":
    sys.exit(run(build(load_or_exit(Settings, "FINETREE_PROBE"))))
