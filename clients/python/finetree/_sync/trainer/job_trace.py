# SPDX-License-Identifier: Apache-2.0
"""A job's log as a trace."""

from __future__ import annotations

from typing import Any

from finetree_api.trainer.v1 import trainer_pb2

from finetree._shared import rpcs, trainer_requests
from finetree._shared.retry import deadline_after, within
from finetree._sync.pages import Pages
from finetree._sync.transport import Transport
from finetree.joblog.trace import trace_of


class JobTrace:
    """The trace of a job."""

    name: str
    _transport: Transport

    def trace(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Make a trace of the job from its event log: Chrome's trace-event JSON, which ui.perfetto.dev opens.

        Tracks: states with the time in the queue, attempts, phases, steps, evaluations, checkpoints, and gaps between
        steps. Alerts, artifacts and the end are instants; loss, evaluation loss, tokens/s and memory are counters. Of a
        job that still runs it is what there is so far.

        Args:
            timeout: seconds for the whole; None means the client's timeout, else 10 for each page of the log.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        deadline = deadline_after(timeout)
        request = trainer_pb2.GetJobRequest(name=self.name)
        wait = within(deadline, self._transport.options.timeout or rpcs.QUICK)
        job = self._transport.unary(rpcs.GET_JOB, request, timeout=wait).job
        listing = trainer_requests.list_log(job.name, job.last_seq)
        pages = Pages(self._transport, listing, None, deadline=deadline)
        return trace_of(job, list(pages))
