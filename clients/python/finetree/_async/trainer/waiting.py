# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Waiting for jobs without a stream, and following all of them with one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from finetree_api.trainer.v1 import waiting_pb2

from finetree._async.events import AsyncEventStream
from finetree._async.transport import AsyncTransport
from finetree._shared import rpcs
from finetree._shared.follow import Pace
from finetree._shared.retry import deadline_after, within
from finetree._shared.trainer.project_follow import LONGEST_WAIT, follow_project, wait_job


class AsyncWaitingCalls:
    """Calls of the trainer that wait."""

    _transport: AsyncTransport

    async def wait_job(
        self, name: str, *states: str | int, wait: int = LONGEST_WAIT, timeout: float | None = None
    ) -> waiting_pb2.WaitJobResponse:
        """Ask once for a job when it is in a state, or as it is when the time is over.

        Args:
            name: resource name or short id.
            states: such as "running"; none means the terminal ones.
            wait: longest time to wait, in whole seconds, 0 to 20.
            timeout: seconds of the call beyond `wait`; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
            ResourceExhausted: TOO_MANY_WATCHERS.
        """
        request = wait_job(self._transport.options.project, name, states, wait)
        own = timeout if timeout is not None else self._transport.options.timeout or rpcs.QUICK
        return await self._transport.unary(rpcs.WAIT_JOB, request, timeout=own + wait)

    def watch_jobs(
        self,
        *,
        cursor: str = "",
        now: bool = False,
        kinds: Sequence[str | int] = (),
        min_level: str | int = 0,
        labels: Mapping[str, str] | None = None,
        min_interval: float = 0.0,
        heartbeat: float = 10.0,
        project: str = "",
        timeout: float | None = None,
    ) -> AsyncEventStream:
        """Follow all jobs of the project: each event once, in one order, live, without end; it re-attaches by itself.

        `job` of an event says whose it is. `cursor` of the stream, stored, goes on behind the last event another day.

        Args:
            cursor: begin behind this cursor, from `cursor` of such a stream.
            now: begin behind the newest change instead; without either, at the oldest that is kept.
            kinds: only these, such as "step_metrics"; empty means "state_changed" (of which a job's first says that it
                was created), "artifact_ready", "alert" and "terminal".
            min_level: only events at least as important: "debug", "info", "warning", "error".
            labels: only jobs that have all of these.
            min_interval: least seconds between what the service sends, 0 to 60; nothing is lost.
            heartbeat: seconds of silence after which the service sends a sign of life; three missing: re-attach.
            project: whose jobs; empty means the client's project.
            timeout: seconds after which it raises FinetreeTimeout; None means never.

        Raises:
            OutOfRange: EVENTS_EXPIRED: changes after the cursor are no longer kept; `metadata["cursor"]` is where to go
                on, `list_jobs` says how the jobs are.
            FailedPrecondition: LOG_RESET: the log was restored from a backup, watch without a cursor.
            Unavailable: nothing arrived for the client's `reconnect_timeout`.
        """
        follow = follow_project(
            project or self._transport.options.project,
            cursor=cursor,
            now=now,
            kinds=kinds,
            min_level=min_level,
            labels=labels,
            pace=Pace(heartbeat, min_interval),
        )
        return AsyncEventStream(self._transport, follow, deadline=deadline_after(timeout))


class AsyncJobWaiting:
    """Waiting for a state of a job."""

    name: str
    _transport: AsyncTransport

    async def wait_for(self, *states: str | int, timeout: float | None = None) -> waiting_pb2.WaitJobResponse:
        """Wait until the job is in one of the states, without a stream: by calls that each last 20 seconds at most.

        Where streams work, `wait` and `events` need fewer calls.

        Args:
            states: such as "running"; none means the terminal ones.
            timeout: seconds; None means for ever. The job continues when it passes.

        Returns:
            The job as it then is. `reached` is False where it has ended in another state.

        Raises:
            FinetreeTimeout: it was in none of them in time.
            NotFound: JOB_NOT_FOUND.
        """
        deadline = deadline_after(timeout)
        own = self._transport.options.timeout or rpcs.QUICK
        while True:
            wait = int(within(deadline, LONGEST_WAIT) or 0)
            request = wait_job("", self.name, states, wait)
            response = await self._transport.unary(rpcs.WAIT_JOB, request, timeout=within(deadline, own + wait))
            if response.reached or response.job.HasField("end_time"):
                return response
            if deadline is not None and wait < 1:
                await asyncio.sleep(max(0.0, deadline - time.monotonic()))
