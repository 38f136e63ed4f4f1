# SPDX-License-Identifier: Apache-2.0
"""What finished jobs have taken, beside what their plans expected."""

import dataclasses
from typing import TYPE_CHECKING

from finetree.money import to_float
from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_cli.errors import BadInput, StillRunning
from finetree_cli.gate.report import Actual, PlanEntry, Report, replace_plans
from finetree_cli.gate.run.approved import ANNOTATION
from finetree_cli.output import short_name

if TYPE_CHECKING:
    from finetree import Client

_STATES = {
    job_pb2.JOB_STATE_SUCCEEDED: "succeeded",
    job_pb2.JOB_STATE_FAILED: "failed",
    job_pb2.JOB_STATE_CANCELLED: "cancelled",
}


def with_actual(client: "Client", report: Report, name: str) -> tuple[Report, PlanEntry]:
    """Return the report with what a job has taken, and the entry of its plan.

    Raises:
        StillRunning: The job has not ended.
        BadInput: The report has no plan of this job.
    """
    job = client.get_job(name)
    if job.state not in _STATES:
        remedy = f"`finetree jobs watch {short_name(job.name)}` follows it"
        raise StillRunning(f"{short_name(job.name)} has not ended", remedy=remedy, reason="JOB_NOT_ENDED")
    entry = _entry_of(report, job)
    ends = client.job(name).list_events(last=1, kinds=("terminal",))
    summary = ends[-1].terminal.summary if ends else event_pb2.RunSummary()
    found = dataclasses.replace(entry, actual=actual(job, summary))
    return replace_plans(report, (found if each is entry else each for each in report.plans)), found


def actual(job: job_pb2.Job, summary: event_pb2.RunSummary) -> Actual:
    """Collect what an ended job has taken: its time is that of the attempt, of several from the first start on."""
    seconds = summary.total_seconds
    if job.attempt > 1 and job.HasField("start_time") and job.HasField("end_time"):
        seconds = (job.end_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9
    priced = job.cost.HasField("amount")
    return Actual(
        job=job.name,
        state=_STATES[job.state],
        memory_bytes=float(summary.peak_memory_bytes or job.metrics.peak_memory_bytes) or None,
        duration_seconds=seconds or None,
        cost=to_float(job.cost.amount) if priced else None,
        currency_code=job.cost.amount.currency_code if priced else "",
        plan_digest=job.plan_digest,
    )


def _entry_of(report: Report, job: job_pb2.Job) -> PlanEntry:
    digests = {job.annotations.get(f"{ANNOTATION}plan-digest", ""), job.plan_digest} - {""}
    file = job.annotations.get(f"{ANNOTATION}job-file", "")
    found = [entry for entry in report.plans if entry.plan_digest in digests]
    # Two job files may have the same plan.
    chosen = next((entry for entry in found if entry.file == file), found[0] if found else None)
    if chosen is None:
        remedy = "`finetree train --plan` makes jobs of a plan file"
        raise BadInput(f"{short_name(job.name)} ran no plan of this file", remedy=remedy, reason="PLAN_NOT_OF_JOB")
    return chosen
