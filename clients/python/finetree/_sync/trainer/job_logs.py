# SPDX-License-Identifier: Apache-2.0
"""What a job's workers wrote, and where its time went."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from finetree_api.trainer.v1 import job_log_pb2, trainer_pb2

from finetree._shared import rpcs, trainer_requests
from finetree._shared.retry import deadline_after, within
from finetree._sync.download import read_log
from finetree._sync.pages import Pages
from finetree._sync.transport import Transport
from finetree.joblog.trace import trace_of


class JobLogs:
    """Logs of a job's workers, and its event log as a trace."""

    name: str
    _transport: Transport

    def read_log(
        self,
        *,
        attempt: int = 0,
        offset: int | None = None,
        last_lines: int | None = None,
        follow: bool = False,
        last_attempt: int = 0,
        timeout: float | None = None,
    ) -> Generator[job_log_pb2.ReadJobLogResponse]:
        """Read the log that the job's workers write, in pieces of whole lines; a cut stream goes on where it was.

        It has a line for each event and what libraries said, with stack traces, and stays when the job has ended. Of a
        log over 8 MiB the first and the newest lines are kept. A piece has `attempt`, `offset`, `text`, `next_offset`.

        Args:
            attempt: whose log; 0 means the newest attempt.
            offset: first byte, `next_offset` of an earlier piece; None means the beginning.
            last_lines: begin so many lines before the end instead.
            follow: go on until the job has ended, with the logs of later attempts too.
            last_attempt: with `follow`, end when this attempt has ended; 0 means the job's last.
            timeout: seconds for the whole; None means as long as something arrives.

        Raises:
            NotFound: JOB_NOT_FOUND, LOG_NOT_FOUND.
            OutOfRange: OFFSET_BEYOND_END.
            Unavailable: nothing arrived for the client's `reconnect_timeout`.
        """
        request = trainer_requests.read_job_log(
            self.name, attempt, last_attempt, offset=offset, last_lines=last_lines, follow=follow
        )
        return read_log(self._transport, request, deadline=deadline_after(timeout))

    def list_logs(self, *, timeout: float | None = None) -> list[job_log_pb2.JobLog]:
        """List the logs of the job, one for each attempt, with their sizes.

        Args:
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        request = job_log_pb2.ListJobLogsRequest(parent=self.name)
        return list(self._transport.unary(rpcs.LIST_JOB_LOGS, request, timeout=timeout).logs)

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
