# SPDX-License-Identifier: Apache-2.0
"""Rpcs of TrainerService about sweeps."""

from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import sweep_pb2, trainer_pb2_grpc
from finetree_runtime.paging import PageTokens, page_size
from finetree_runtime.server import context

from finetree_trainer.api.names import Names
from finetree_trainer.api.requests import parent_project, request_key
from finetree_trainer.jobs.sweeps.sweeps import Sweeps


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepRpcs(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers the rpcs about sweeps; its fields do the work."""

    names: Names
    sweeps: Sweeps
    tokens: PageTokens

    async def ValidateSweep(
        self, request: sweep_pb2.ValidateSweepRequest, context_: Any
    ) -> sweep_pb2.ValidateSweepResponse:
        """Plan and price a sweep without creating it."""
        planned = await self.sweeps.validate(parent_project(request.parent), request.sweep)
        return sweep_pb2.ValidateSweepResponse(sweep=planned.sweep, remarks=planned.remarks)

    async def CreateSweep(self, request: sweep_pb2.CreateSweepRequest, context_: Any) -> sweep_pb2.CreateSweepResponse:
        """Create a sweep."""
        sweep = await self.sweeps.create(parent_project(request.parent), context.principal().name, request)
        context.bind(sweep=sweep.uid)
        return sweep_pb2.CreateSweepResponse(sweep=sweep)

    async def GetSweep(self, request: sweep_pb2.GetSweepRequest, context_: Any) -> sweep_pb2.GetSweepResponse:
        """Return a sweep, at once or with its next change."""
        uid, known = (await self.names.sweep(request.name)).id, request.known_update.ToMicroseconds()
        if request.wait_seconds:
            context.only_waits()
        sweep = await self.sweeps.wait(uid, known=known, seconds=float(request.wait_seconds))
        return sweep_pb2.GetSweepResponse(sweep=sweep)

    async def ListSweeps(self, request: sweep_pb2.ListSweepsRequest, context_: Any) -> sweep_pb2.ListSweepsResponse:
        """List sweeps, newest first."""
        project, size = parent_project(request.parent), page_size(request.page_size)
        scope = f"ListSweeps/{project}"
        before = self.tokens.read(scope, request.page_token) or ""
        found = await self.sweeps.page(project, before=before, limit=size + 1)
        token = self.tokens.issue(scope, found[size - 1].uid) if len(found) > size else ""
        return sweep_pb2.ListSweepsResponse(sweeps=found[:size], next_page_token=token)

    async def CancelSweep(self, request: sweep_pb2.CancelSweepRequest, context_: Any) -> sweep_pb2.CancelSweepResponse:
        """Ask a sweep to stop."""
        name = await self.names.sweep(request.name)
        key = request_key(request, name.project, "CancelSweep")
        return sweep_pb2.CancelSweepResponse(sweep=await self.sweeps.cancel(name.id, key=key))
