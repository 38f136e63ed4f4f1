# SPDX-License-Identifier: Apache-2.0
"""Curves of a job's metrics: read backwards from the log, so that the newest attempt's value of a step is met first."""

from finetree.joblog.metrics import KINDS, Curves, query_problem
from finetree_api.trainer.v1 import metrics_pb2
from finetree_runtime.errors import invalid_field
from sqlalchemy import Connection

from finetree_trainer.joblog.log import EventLog, job_not_found
from finetree_trainer.store import events, jobs

READ_BLOCKS = 64
"""Blocks of events of one read from the database."""
_MASK = events.kinds_mask(KINDS)


class MetricsReader:
    """Answers curves from the database."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def query(self, uid: str, request: metrics_pb2.QueryMetricsRequest) -> metrics_pb2.QueryMetricsResponse:
        """Answer a request. Raises the errors that QueryMetrics documents."""
        problem = query_problem(request)
        if problem is not None:
            raise invalid_field(problem.field, problem.description)
        return await self._log.store.read(lambda connection: read_curves(connection, uid, request))


def read_curves(
    connection: Connection, uid: str, request: metrics_pb2.QueryMetricsRequest
) -> metrics_pb2.QueryMetricsResponse:
    """Read the curves that a request without a problem asks for from a job's log.

    Raises NotFound JOB_NOT_FOUND, FailedPrecondition EVENTS_DAMAGED.
    """
    curves = Curves.of(request)
    reach = jobs.span(connection, uid)
    if reach is None:
        raise job_not_found(uid)
    before = reach.last_seq + 1
    while before > reach.oldest_seq:
        found, before = events.read_before(
            connection, uid, before, after=reach.oldest_seq - 1, mask=_MASK, blocks=READ_BLOCKS
        )
        if not all(map(curves.add, found)):
            break
    return metrics_pb2.QueryMetricsResponse(
        series=curves.series(),
        steps_per_point=curves.width,
        last_step=curves.newest,
        last_seq=reach.last_seq,
        oldest_seq=reach.oldest_seq,
    )
