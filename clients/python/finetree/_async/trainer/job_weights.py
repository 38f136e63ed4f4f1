# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""What a job leaves to go on from, and what it went on from itself."""

from __future__ import annotations

from contextlib import suppress

from finetree_api.trainer.v1 import checkpoint_pb2, job_pb2, trainer_pb2

from finetree._async.pages import AsyncPages
from finetree._async.trainer.job_storage import AsyncJobStorage
from finetree._shared import rpcs
from finetree._shared.trainer.weights import MOST_ANCESTORS, list_checkpoints, made_by
from finetree.errors import NotFound


class AsyncJobWeights(AsyncJobStorage):
    """Checkpoints and lineage of a job."""

    async def checkpoints(
        self, *, show_deleted: bool = False, timeout: float | None = None
    ) -> list[checkpoint_pb2.Checkpoint]:
        """List the checkpoints that are on the trainer's disk and whole, by step; a run can start from each.

        Args:
            show_deleted: those too that are no longer there; `available` tells them apart.
            timeout: seconds for each page; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        listing = list_checkpoints(self.name, show_deleted=show_deleted)
        return [checkpoint async for checkpoint in AsyncPages(self._transport, listing, timeout)]

    async def ancestors(self, *, timeout: float | None = None) -> list[job_pb2.Job]:
        """Get the jobs that this one's lineage goes back to, the nearest first; those that are gone are left out.

        `Job.lineage` of each says what it was made of.

        Args:
            timeout: seconds for each job; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND: this job is not there.
        """
        found, seen = list[job_pb2.Job](), {self.name}
        waiting = made_by(await self._get(self.name, timeout))
        while waiting and len(found) < MOST_ANCESTORS:
            name = waiting.pop(0)
            if name not in seen:
                seen.add(name)
                with suppress(NotFound):
                    found.append(await self._get(name, timeout))
                    waiting += made_by(found[-1])
        return found

    async def _get(self, name: str, timeout: float | None) -> job_pb2.Job:
        request = trainer_pb2.GetJobRequest(name=name)
        return (await self._transport.unary(rpcs.GET_JOB, request, timeout=timeout)).job
