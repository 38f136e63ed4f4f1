# SPDX-License-Identifier: Apache-2.0
"""Rpcs of TrainerService about a served base model: its targets and its answers."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import serving_pb2, trainer_pb2_grpc
from finetree_runtime.server import context
from finetree_runtime.server.limits.places import OpenStreams

from finetree_trainer.api.names import Names
from finetree_trainer.api.requests import caller_in, request_key
from finetree_trainer.jobs.serving.generations import Generations


@dataclass(frozen=True, kw_only=True, eq=False)
class ServingRpcs(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers the rpcs about targets and generation; its fields do the work."""

    names: Names
    generations: Generations
    open_streams: OpenStreams

    async def Generate(
        self, request: serving_pb2.GenerateRequest, context_: Any
    ) -> AsyncIterator[serving_pb2.GenerateResponse]:
        """Stream answers of a served base model and its targets."""
        name = await self.names.job(request.job, "job")
        context.bind(job=name.id)
        with self.open_streams.taken("generations", caller_in(name.project), reason="TOO_MANY_GENERATIONS"):
            async with aclosing(self.generations.generate(name.id, request)) as answers:
                async for response in answers:
                    yield response

    async def LoadTarget(self, request: serving_pb2.LoadTargetRequest, context_: Any) -> serving_pb2.LoadTargetResponse:
        """Load trained weights on a served base model."""
        name = await self.names.job(request.job, "job")
        context.bind(job=name.id)
        key = request_key(request, name.project, "LoadTarget")
        target = await self.generations.load(name.id, name.project, request, key=key)
        return serving_pb2.LoadTargetResponse(target=target)

    async def UnloadTarget(
        self, request: serving_pb2.UnloadTargetRequest, context_: Any
    ) -> serving_pb2.UnloadTargetResponse:
        """Remove a target from a served base model."""
        name = await self.names.job(request.job, "job")
        context.bind(job=name.id)
        await self.generations.unload(name.id, request.target, key=request_key(request, name.project, "UnloadTarget"))
        return serving_pb2.UnloadTargetResponse()

    async def ListTargets(
        self, request: serving_pb2.ListTargetsRequest, context_: Any
    ) -> serving_pb2.ListTargetsResponse:
        """List what a served base model has loaded."""
        return await self.generations.targets((await self.names.job(request.job, "job")).id)
