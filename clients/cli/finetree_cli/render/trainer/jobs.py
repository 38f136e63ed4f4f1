# SPDX-License-Identifier: Apache-2.0
"""Jobs, plans and artifacts as text."""

import time
from collections.abc import Iterable, Sequence

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2

from finetree_cli.errors import GateFailed
from finetree_cli.output import Output, short_name
from finetree_cli.render import units

FINAL_STEPS = 10
"""Most steps whose mean loss is RunSummary.final_loss, by the contract."""


def state_name(state: int) -> str:
    """Format a state."""
    return units.word(job_pb2.JobState, state)


def show_list(out: Output, jobs: Iterable[job_pb2.Job]) -> None:
    """Print jobs as a table."""
    rows = [
        (
            short_name(job.name),
            job.display_name,
            job.WhichOneof("task") or "-",
            state_name(job.state),
            f"{job.progress.fraction:.0%}",
            f"{job.metrics.loss:.3f}" if job.metrics.HasField("loss") else "-",
            units.instant(job.create_time),
        )
        for job in jobs
    ]
    out.table(["Job", "Name", "Task", "State", ">Done", ">Loss", "Created"], rows)


def show_job(out: Output, job: job_pb2.Job) -> None:
    """Print one job."""
    out.text(f"{job.name}  {job.display_name}".rstrip())
    why = f": {job.state_reason.text}" if job.state_reason.text else ""
    out.text(f"  state     {state_name(job.state)}{why}")
    if job.state_reason.remedy:
        out.text(f"            {job.state_reason.remedy}")
    at = job.progress
    steps = f", step {at.step} of {at.total_steps}" if job.WhichOneof("task") in ("train", None) else ""
    out.text(f"  progress  {at.fraction:.0%}{steps}, attempt {job.attempt}")
    if job.serve.loaded:
        out.text(f"  targets   {', '.join(target.name for target in job.serve.loaded)}")
    for placement in job.placements:
        out.text(f"  runs on   {placement.node}: {', '.join(placement.device_ids)}")
    _show_queue(out, job)
    _show_metrics(out, job.metrics)
    if job.HasField("estimate"):
        _show_frozen_estimate(out, job.estimate)
    if job.progress.HasField("eta_seconds"):
        out.text(f"  forecast  {_forecast(job, time.time())}")
    if job.error.message:
        out.text(f"  error     {job.error.message}")
    out.text(f"  events    {job.oldest_seq} to {job.last_seq}")
    if job.train.spec.HasField("init_from"):
        source = job.train.spec.init_from
        out.text(f"  starts    from {source.artifact or source.checkpoint or source.path}")
    if job.plan_digest:
        out.text(f"  plan      {job.plan_digest}")
    for key, value in sorted(job.annotations.items()):
        out.text(f"  note      {key}: {value}")


def _forecast(job: job_pb2.Job, now: float) -> str:
    """What remains by the measured steps, and whether they contradict the estimate; `now` is in Unix seconds."""
    left, estimated = job.progress.eta_seconds, job.estimate.total_seconds
    least = now - job.start_time.ToMicroseconds() / 1e6 + left.low
    contradicted = job.HasField("start_time") and 0 < estimated.high < least
    return f"{units.duration_range(left)} left{', more than was estimated' if contradicted else ''}"


def _show_queue(out: Output, job: job_pb2.Job) -> None:
    if job.state_reason.HasField("next_attempt_time"):
        out.text(f"  tries     again not before {units.instant(job.state_reason.next_attempt_time)}")
    if job.queue_position:
        out.text(f"  queue     {job.queue_position}. {job.blocked_by}".rstrip())
    if job.priority in (job_pb2.JOB_PRIORITY_LOW, job_pb2.JOB_PRIORITY_HIGH):
        out.text(f"  priority  {units.word(job_pb2.JobPriority, job.priority)}")


def show_place(out: Output, job: job_pb2.Job) -> None:
    """Print the place of a job in the queue; of one that does not wait, its state."""
    if not job.queue_position:
        out.text(state_name(job.state))
        return
    priority = units.word(job_pb2.JobPriority, job.priority)
    out.text(f"{state_name(job.state)}, position {job.queue_position}, priority {priority}: {job.blocked_by}")


def _show_metrics(out: Output, metrics: job_pb2.LatestMetrics) -> None:
    parts = []
    if metrics.HasField("loss"):
        parts.append(f"loss {metrics.loss:.3f}")
    if metrics.HasField("eval_loss"):
        parts.append(f"evaluation loss {metrics.eval_loss:.3f}")
    if metrics.HasField("exact_match"):
        parts.append(f"exact match {metrics.exact_match:.1%}")
    if metrics.peak_memory_bytes:
        parts.append(f"peak memory {units.size(metrics.peak_memory_bytes)}")
    if parts:
        out.text(f"  metrics   {', '.join(parts)}")


def _show_frozen_estimate(out: Output, estimate: estimate_summary_pb2.EstimateSummary) -> None:
    parts = [units.size_range(estimate.device_bytes)]
    if estimate.HasField("total_seconds"):
        parts.append(units.duration_range(estimate.total_seconds))
    if estimate.HasField("cost"):
        parts.append(units.money_range(estimate.cost))
    out.text(f"  estimate  {', '.join(parts)}")


def show_plan(out: Output, plan: trainer_pb2.ValidateJobResponse) -> None:
    """Print a plan: its values with their reasons, the checks, the estimate."""
    from finetree_cli.jobfile.yaml_writer import to_yaml

    if plan.WhichOneof("task") == "train":
        out.text(to_yaml(plan.train.spec, plan.train.setting_sources).rstrip())
    for check in plan.checks:
        out.text(f"{_verdict(check)}  {check.rule_id}  {check.message}")
    if plan.HasField("estimate"):
        _show_frozen_estimate(out, plan.estimate)
    for remark in plan.remarks:
        out.text(f"Note: {remark.message}")
    if plan.HasField("plan"):
        out.text(f"Plan: {plan.plan.digest}")


def refuse_failed_checks(checks: Iterable[check_pb2.Check]) -> None:
    """Raise GateFailed if a check has failed."""
    failed = [check for check in checks if check.verdict == check_pb2.CHECK_VERDICT_FAIL]
    if failed:
        rules = ", ".join(check.rule_id for check in failed)
        raise GateFailed(f"failed checks: {rules}", remedy=failed[0].fix.summary, reason="CHECK_FAILED")


def _verdict(check: check_pb2.Check) -> str:
    return units.word(check_pb2.CheckVerdict, check.verdict).upper().ljust(9)


def final_steps(summary: event_pb2.RunSummary) -> int:
    """Return how many last steps `final_loss` is the mean of, as the contract says: up to ten."""
    return min(summary.steps, FINAL_STEPS)


def show_end(out: Output, summary: event_pb2.RunSummary, artifacts: Sequence[artifact_pb2.Artifact]) -> None:
    """Print the summary of a job that has ended, and its artifacts."""
    if summary.HasField("first_loss") and summary.HasField("final_loss"):
        note = f" (mean of the last {final_steps(summary)})" if final_steps(summary) > 1 else ""
        out.text(f"loss         {summary.first_loss:.3f} -> {summary.final_loss:.3f} in {summary.steps} steps{note}")
    if summary.HasField("exact_match_after"):
        before = f"{summary.exact_match_before:.1%} -> " if summary.HasField("exact_match_before") else ""
        out.text(f"exact match  {before}{summary.exact_match_after:.1%}")
    out.text(f"time         {units.duration(summary.total_seconds)}")
    if summary.peak_memory_bytes:
        out.text(f"memory       {units.size(summary.peak_memory_bytes)}")
    for artifact in artifacts:
        kind = units.word(artifact_pb2.ArtifactKind, artifact.kind)
        out.text(f"artifact     {artifact.name} ({kind}, {units.size(artifact.size_bytes)})")
