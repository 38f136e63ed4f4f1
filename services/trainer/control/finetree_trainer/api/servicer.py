# SPDX-License-Identifier: Apache-2.0
"""TrainerService: each rpc reads its request, calls the domain, and builds its reply. Nothing is decided here."""

from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import capacity_pb2, limits_pb2, trainer_pb2
from finetree_runtime.server import context
from finetree_runtime.server.identity import distribution_version, server_info

from finetree_trainer.api.data_rpcs import DataRpcs
from finetree_trainer.api.hidden_jobs import hide_jobs
from finetree_trainer.api.job_rpcs import JobRpcs
from finetree_trainer.api.lifecycle_rpcs import LifecycleRpcs
from finetree_trainer.api.log_rpcs import LogRpcs
from finetree_trainer.api.requests import caller_in, parent_project
from finetree_trainer.api.result_rpcs import ResultRpcs
from finetree_trainer.api.serving_rpcs import ServingRpcs
from finetree_trainer.api.sweep_rpcs import SweepRpcs
from finetree_trainer.clock import seconds_of
from finetree_trainer.jobs import capabilities
from finetree_trainer.jobs.serving.leases import Leases
from finetree_trainer.limits.report import LimitReport
from finetree_trainer.scheduling.host import Host
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.settings import NAME
from finetree_trainer.workers.confinement import WorkerConfinement
from finetree_trainer.workers.resting import RestingWorkers

SERVICE = "finetree_api.trainer.v1.TrainerService"
"""Full name of the gRPC service."""

FEATURES = (
    *capabilities.features(),
    *("models.hub", "watch.cursor", "watch.project", "jobs.wait", "datasets.resume", "datasets.preview", "sweeps"),
    *("jobs.pause", "jobs.move"),
)
"""Features that GetServerInfo names; those of what the worker trains among them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainerServicer(DataRpcs, JobRpcs, LifecycleRpcs, SweepRpcs, LogRpcs, ResultRpcs, ServingRpcs):
    """Every rpc of the trainer; its fields answer them."""

    leases: Leases
    resting: RestingWorkers
    confinement: WorkerConfinement
    host: Host
    queue: JobQueue
    limit_report: LimitReport
    limits: dict[str, int]
    """Limits of this service by name, as in GetServerInfo."""

    async def GetCapacity(
        self, request: capacity_pb2.GetCapacityRequest, context_: Any
    ) -> capacity_pb2.GetCapacityResponse:
        """Report machines, queue, limits and what the server trains."""
        if request.HasField("wait_for_rate"):
            context.only_waits()
        await self.host.wait_for_rates(seconds_of(request.wait_for_rate))
        reply = capacity_pb2.GetCapacityResponse(
            nodes=await self.host.describe(self.queue, self.leases.named, self.resting.describe),
            queue_length=len(self.queue),
            limits=self.limits,
            capabilities=capabilities.CAPABILITIES,
            confinement=self.confinement.describe(),
            node_types=self.host.node_types(),
        )
        hide_jobs(reply, context.principal().grants)
        return reply

    async def GetLimits(self, request: limits_pb2.GetLimitsRequest, context_: Any) -> limits_pb2.GetLimitsResponse:
        """Report what a project and the caller use of their limits."""
        return await self.limit_report.report(caller_in(parent_project(request.parent)))

    async def GetServerInfo(self, request: trainer_pb2.GetServerInfoRequest, context_: Any) -> Any:
        """Report the server's version, features and limits."""
        info = server_info(NAME, distribution_version(NAME), features=FEATURES, limits=self.limits)
        return trainer_pb2.GetServerInfoResponse(server=info)
