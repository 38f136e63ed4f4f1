# SPDX-License-Identifier: Apache-2.0
"""TrainerService of a replica: it answers what it can read, and the leader the rest.

A replica that leads answers everything itself, by the same methods as a trainer that is alone.
"""

from collections.abc import AsyncIterator
from typing import Any

from finetree_api.trainer.v1 import trainer_pb2
from finetree_runtime.errors import Unavailable
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from finetree_trainer.api.servicer import SERVICE, TrainerServicer
from finetree_trainer.joblog import states
from finetree_trainer.replicas.leader import LeaderConnection, is_forwarded, leader_unavailable
from finetree_trainer.replicas.role import Replica

READ_HERE = frozenset(
    {
        *("GetServerInfo", "GetJob", "ListJobs", "CompareJobs", "WaitJob", "WatchJob", "WatchJobs", "ListEvents"),
        *("QueryMetrics", "ListJobLogs", "ReadJobLog", "ListCheckpoints", "GetCheckpoint", "ListArtifacts"),
        *("DownloadArtifact", "GetArtifactLink", "GetDataset", "ListDatasets", "PreviewDataset", "ListSweeps"),
        *("ListBaseModels", "GetBaseModel", "GetStorage"),
    }
)
"""Rpcs that every replica answers, from the database and the folder. The others change something, or ask for what the
leader alone has in memory: its workers, its machine, its queue, the calls that wait for a sweep."""

ASKS_STORE = frozenset({"GetStorage"})
"""Those of them that tell all that an object store has, where there is one: the leader changes it, and alone knows."""


class ReplicaServicer:
    """Every rpc of the trainer: `own` answers those of `here`, and all of them once it leads; else the leader does."""

    def __init__(
        self, own: TrainerServicer, replica: Replica, leader: LeaderConnection, *, here: frozenset[str]
    ) -> None:
        self._own, self._replica, self._leader, self._here = own, replica, leader, here
        for method in descriptor_pool.Default().FindServiceByName(SERVICE).methods:
            setattr(self, method.name, self._behavior(method))

    def _behavior(self, method: MethodDescriptor) -> Any:
        own = getattr(self._own, method.name)
        if method.name in ("GetJob", "ListJobs"):
            own = self._with_places(method, own)
        forward = self._stream if method.server_streaming else self._unary

        def behavior(request: Any, rpc: Any) -> Any:
            if self._replica.leading or method.name in self._here:
                return own(request, rpc)
            return forward(method, request, rpc)

        return behavior

    async def _unary(self, method: MethodDescriptor, request: Any, rpc: Any) -> Any:
        _require_first_hand(rpc)
        return await self._leader.unary(method, request, rpc)

    async def _stream(self, method: MethodDescriptor, request: Any, rpc: Any) -> AsyncIterator[Any]:
        _require_first_hand(rpc)
        async for reply in self._leader.stream(method, request, rpc):
            yield reply

    def _with_places(self, method: MethodDescriptor, own: Any) -> Any:
        """Answer with jobs: where some of them wait, the leader says at which place, if there is one."""

        async def behavior(request: Any, rpc: Any) -> Any:
            reply: trainer_pb2.GetJobResponse | trainer_pb2.ListJobsResponse = await own(request, rpc)
            jobs = [reply.job] if isinstance(reply, trainer_pb2.GetJobResponse) else reply.jobs
            waiting = any(job.state in states.WAITING for job in jobs)
            if not waiting or self._replica.leading or is_forwarded(rpc) or not self._replica.leader:
                return reply
            try:
                return await self._leader.unary(method, request, rpc, wait=False)
            except Unavailable:
                return reply

        return behavior


def _require_first_hand(rpc: Any) -> None:
    """Refuse what another replica has sent here: that one thought that this one leads."""
    if is_forwarded(rpc):
        raise leader_unavailable()
