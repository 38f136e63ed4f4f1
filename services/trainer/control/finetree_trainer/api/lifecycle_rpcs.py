# SPDX-License-Identifier: Apache-2.0
"""Rpcs of TrainerService that pause, resume and move jobs."""

from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import lifecycle_pb2, trainer_pb2_grpc

from finetree_trainer.api.names import Names
from finetree_trainer.api.requests import request_key
from finetree_trainer.jobs.jobs import Jobs
from finetree_trainer.jobs.lifecycle.moving import Moving
from finetree_trainer.jobs.lifecycle.pausing import Pausing


@dataclass(frozen=True, kw_only=True, eq=False)
class LifecycleRpcs(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers the rpcs about the life cycle of jobs; its fields do the work."""

    names: Names
    jobs: Jobs
    pausing: Pausing
    moving: Moving

    async def PauseJob(self, request: lifecycle_pb2.PauseJobRequest, context_: Any) -> lifecycle_pb2.PauseJobResponse:
        """Ask a training to give its device back."""
        name = await self.names.job(request.name)
        key = request_key(request, name.project, "PauseJob")
        await self.pausing.pause(name.id, keep_place=request.keep_place, key=key)
        return lifecycle_pb2.PauseJobResponse(job=await self.jobs.get(name.id))

    async def ResumeJob(
        self, request: lifecycle_pb2.ResumeJobRequest, context_: Any
    ) -> lifecycle_pb2.ResumeJobResponse:
        """Have a paused or suspended job wait for a device."""
        name = await self.names.job(request.name)
        await self.pausing.resume(name.id, request_key(request, name.project, "ResumeJob"))
        return lifecycle_pb2.ResumeJobResponse(job=await self.jobs.get(name.id))

    async def MoveJob(self, request: lifecycle_pb2.MoveJobRequest, context_: Any) -> lifecycle_pb2.MoveJobResponse:
        """Give a waiting job another place in the queue."""
        name = await self.names.job(request.name)
        before = (await self.names.job(request.before, "before")).id if request.before else ""
        await self.moving.move(name.id, before, request_key(request, name.project, "MoveJob"))
        return lifecycle_pb2.MoveJobResponse(job=await self.jobs.get(name.id))
