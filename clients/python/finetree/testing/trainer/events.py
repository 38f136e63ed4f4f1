# SPDX-License-Identifier: Apache-2.0
"""What a log answers besides being watched: pages of events, and curves of metrics."""

from __future__ import annotations

from finetree_api.trainer.v1 import event_log_pb2, event_pb2, metrics_pb2

from finetree.joblog.metrics import KINDS, Curves, query_problem
from finetree.testing.requests import invalid, page
from finetree.testing.trainer.job import FakeJob
from finetree.testing.trainer.watch import require_kept


def list_events(request: event_log_pb2.ListEventsRequest, job: FakeJob) -> event_log_pb2.ListEventsResponse:
    """Cut a page of the events that a request asks for.

    Raises:
        FinetreeError: what ListEvents documents.
    """
    if request.after_seq:
        require_kept(job, request.after_seq)
    moment = request.after_time.ToMicroseconds() if request.HasField("after_time") else -1
    chosen = [
        event
        for event in job.log
        if event.seq > request.after_seq
        and (not request.before_seq or event.seq < request.before_seq)
        and event.event_time.ToMicroseconds() > moment
        and (not request.kinds or event.kind in request.kinds)
        and event.level >= request.min_level
    ]
    if request.order == event_log_pb2.EVENT_ORDER_DESCENDING:
        chosen.reverse()
    events, token = page(chosen, request, key=_seq_of, size=100, scope=job.message.uid)
    return event_log_pb2.ListEventsResponse(events=events, next_page_token=token)


def query_metrics(request: metrics_pb2.QueryMetricsRequest, job: FakeJob) -> metrics_pb2.QueryMetricsResponse:
    """Make the curves that a request asks for.

    Raises:
        FinetreeError: what QueryMetrics documents.
    """
    problem = query_problem(request)
    if problem is not None:
        raise invalid(problem.field, problem.description)
    curves = Curves.of(request)
    for event in reversed(job.log):
        if event.kind in KINDS and not curves.add(event):
            break
    return metrics_pb2.QueryMetricsResponse(
        series=curves.series(),
        steps_per_point=curves.width,
        last_step=curves.newest,
        last_seq=job.message.last_seq,
        oldest_seq=job.message.oldest_seq,
    )


def _seq_of(event: event_pb2.JobEvent) -> str:
    return str(event.seq)
