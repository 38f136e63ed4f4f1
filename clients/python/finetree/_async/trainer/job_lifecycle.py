# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Pause and resume a job, and give it another place in the queue."""

from __future__ import annotations

from finetree_api.trainer.v1 import job_pb2, lifecycle_pb2

from finetree._async.transport import AsyncTransport
from finetree._shared import rpcs
from finetree._shared.channels import new_request_id
from finetree._shared.trainer.names import project_of
from finetree._shared.trainer_requests import full_name


class AsyncJobLifecycle:
    """What a client does with a job between its creation and its end."""

    name: str
    snapshot: job_pb2.Job | None
    _transport: AsyncTransport

    async def pause(
        self, *, keep_place: bool = False, timeout: float | None = None, request_id: str = ""
    ) -> job_pb2.Job:
        """Ask a training to save a checkpoint and give its device back; returns at once, in state PAUSING.

        A job that waits is suspended. While it is paused it costs nothing; `resume` has it go on, to the weights of a
        run that was never paused.

        Args:
            keep_place: whether it waits at its old place when it is resumed, not behind the jobs that wait then.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND.
            FailedPrecondition: JOB_NOT_PAUSABLE: it does not train, or is in no state that can be paused.
        """
        request = lifecycle_pb2.PauseJobRequest(
            name=self.name, keep_place=keep_place, request_id=request_id or new_request_id()
        )
        answer = await self._transport.unary(rpcs.PAUSE_JOB, request, timeout=timeout, request_id=request.request_id)
        self.snapshot = answer.job
        return self.snapshot

    async def resume(self, *, timeout: float | None = None, request_id: str = "") -> job_pb2.Job:
        """Have a paused or suspended job wait for a device; a training goes on from its newest checkpoint.

        Args:
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND.
            FailedPrecondition: JOB_NOT_PAUSED: it is neither paused nor suspended, or still saves its checkpoint.
        """
        request = lifecycle_pb2.ResumeJobRequest(name=self.name, request_id=request_id or new_request_id())
        answer = await self._transport.unary(rpcs.RESUME_JOB, request, timeout=timeout, request_id=request.request_id)
        self.snapshot = answer.job
        return self.snapshot

    async def move(self, *, before: str = "", timeout: float | None = None, request_id: str = "") -> job_pb2.Job:
        """Give a waiting job another place in the queue: the first one, or the one directly before another job.

        Args:
            before: the other job, by its resource name or, in the same project, its id; empty for the first place.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND.
            FailedPrecondition: JOB_NOT_WAITING: one of the two does not wait. DIFFERENT_QUEUES: they wait for different
                devices.
        """
        request = lifecycle_pb2.MoveJobRequest(
            name=self.name,
            before=full_name(project_of(self.name), "jobs", before) if before else "",
            request_id=request_id or new_request_id(),
        )
        answer = await self._transport.unary(rpcs.MOVE_JOB, request, timeout=timeout, request_id=request.request_id)
        self.snapshot = answer.job
        return self.snapshot
