# SPDX-License-Identifier: Apache-2.0
"""Answers CompareJobs: reads the courses of jobs and lays them side by side. What is better is decided in `ranking`."""

import asyncio
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from finetree.joblog.metrics import UNITS, query_problem
from finetree_api.trainer.v1 import comparison_pb2, event_pb2, job_pb2, metrics_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2
from finetree_runtime.errors import FailedPrecondition, invalid_field

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.compare import history, ranking
from finetree_trainer.jobs.compare.curves import common_width
from finetree_trainer.jobs.compare.differences import differences
from finetree_trainer.jobs.compare.history import History, Wanted
from finetree_trainer.jobs.jobs import Jobs

DEFAULT_METRICS = ("loss", "eval_loss")
DEFAULT_POINTS = 100
DEFAULT_LAST_STEPS = 20
DEFAULT_SAMPLES = 10
MAX_TEXT = 4000
"""Characters of a prompt or an answer: of 16 jobs and 100 prompts together they fit into a message."""


class Comparer:
    """Compares jobs."""

    def __init__(self, log: EventLog, jobs: Jobs) -> None:
        self._log, self._jobs = log, jobs

    async def compare(
        self, uids: Sequence[str], request: comparison_pb2.CompareJobsRequest
    ) -> comparison_pb2.CompareJobsResponse:
        """Answer a request for these jobs. Raises the errors that CompareJobs documents."""
        problem = query_problem(metrics_pb2.QueryMetricsRequest(metrics=request.metrics))
        if problem is not None:
            raise invalid_field(problem.field, problem.description)
        wanted = Wanted(
            metrics=tuple(request.metrics) or DEFAULT_METRICS,
            axis=request.axis or comparison_pb2.CURVE_AXIS_STEP,
            points=request.max_points or DEFAULT_POINTS,
            last_steps=request.last_steps or DEFAULT_LAST_STEPS,
        )
        compared = [await self._jobs.get(uid) for uid in uids]
        for job in compared:
            if job.WhichOneof("task") != "train":
                text = f"{job.name} does not train; leave it out."
                raise FailedPrecondition("NOT_COMPARABLE", text, metadata={"job": job.name})
        # One after the other: sixteen at once would keep every other reader of the store waiting.
        courses = [await self._log.store.read(partial(history.read, uid=uid, wanted=wanted)) for uid in uids]
        samples = request.max_samples or DEFAULT_SAMPLES
        return await asyncio.to_thread(_response, compared, courses, wanted, samples=samples)


def _response(
    compared: Sequence[job_pb2.Job], courses: Sequence[History], wanted: Wanted, *, samples: int
) -> comparison_pb2.CompareJobsResponse:
    curves = [curve for course in courses for curve in course.curves.values()]
    width = common_width(curves, [course.spacing for course in courses])
    for curve in curves:
        curve.widen(width)
    metrics = ranking.metrics(compared, courses)
    best, why = ranking.best(compared, metrics)
    return comparison_pb2.CompareJobsResponse(
        jobs=map(_job, compared, courses),
        differences=differences(compared, [course.environment for course in courses]),
        axis=wanted.axis,
        units_per_point=width,
        curves=_curves(courses, wanted.metrics),
        metrics=[metric.message for metric in metrics],
        samples=_samples(courses, samples),
        best=best,
        remarks=[*_remarks(compared, courses), *why],
    )


def _curves(courses: Sequence[History], metrics: Sequence[str]) -> Iterator[comparison_pb2.ComparedCurve]:
    for name in metrics:
        for index, course in enumerate(courses):
            if name in course.curves:
                points = course.curves[name].points()
                yield comparison_pb2.ComparedCurve(metric=name, unit=UNITS[name], job=index, points=points)


def _job(job: job_pb2.Job, course: History) -> comparison_pb2.ComparedJob:
    summary, newest = course.summary, course.newest
    peak = summary.peak_memory_bytes or job.metrics.peak_memory_bytes
    return comparison_pb2.ComparedJob(
        name=job.name,
        display_name=job.display_name,
        state=job.state,
        method=job.train.spec.WhichOneof("method") or "",
        steps=len(course.step_seconds),
        total_steps=newest.total_steps or job.progress.total_steps,
        epochs=newest.epoch,
        processed_tokens=newest.processed_tokens,
        start_time=job.start_time if job.HasField("start_time") else None,
        end_time=job.end_time if job.HasField("end_time") else None,
        seconds=_seconds(job, course),
        step_seconds=statistics.median(course.step_seconds) if course.step_seconds else None,
        tokens_per_second=statistics.median(course.tokens_per_second) if course.tokens_per_second else None,
        peak_memory_bytes=peak or None,
        cost=job.cost.amount if job.cost.HasField("amount") else None,
        estimates=_estimates(job, course, peak=peak),
        attempts=job.attempt,
        published_step=summary.best_step or None,
    )


def _seconds(job: job_pb2.Job, course: History) -> float | None:
    """Wall-clock seconds of a job that has ended: of its attempt, or of several from the first start to the end."""
    if not job.HasField("end_time") or not job.HasField("start_time"):
        return None
    if job.attempt == 1 and course.summary.total_seconds:
        return course.summary.total_seconds
    return (job.end_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9


def _estimates(job: job_pb2.Job, course: History, *, peak: int) -> Iterator[comparison_pb2.EstimateOutcome]:
    estimate = job.estimate
    # What a run takes as a whole, one that was cut short has not shown.
    whole = job.state == job_pb2.JOB_STATE_SUCCEEDED
    median = statistics.median(course.step_seconds) if course.step_seconds else None
    seconds = _seconds(job, course) if whole else None
    if estimate.HasField("total_seconds"):
        yield _outcome(comparison_pb2.ESTIMATED_QUANTITY_TOTAL_SECONDS, estimate.total_seconds, seconds)
    if estimate.HasField("step_seconds"):
        yield _outcome(comparison_pb2.ESTIMATED_QUANTITY_STEP_SECONDS, estimate.step_seconds, median)
    if estimate.HasField("device_bytes"):
        yield _outcome(comparison_pb2.ESTIMATED_QUANTITY_DEVICE_BYTES, estimate.device_bytes, float(peak) or None)
    if estimate.HasField("cost"):
        currency, spent = estimate.cost.currency_code, None
        if whole and job.cost.HasField("amount") and job.cost.amount.currency_code == currency:
            spent = job.cost.amount.units + job.cost.amount.nanos / 1e9
        yield _outcome(comparison_pb2.ESTIMATED_QUANTITY_COST, estimate.cost.amount, spent, currency=currency)


def _outcome(
    quantity: comparison_pb2.EstimatedQuantity.ValueType,
    estimated: evidence_pb2.Interval,
    actual: float | None,
    *,
    currency: str = "",
) -> comparison_pb2.EstimateOutcome:
    return comparison_pb2.EstimateOutcome(
        quantity=quantity,
        estimated=estimated,
        actual=actual,
        currency_code=currency,
        ratio=actual / estimated.expected if actual is not None and estimated.expected else None,
        inside=actual is not None and estimated.low <= actual <= estimated.high,
    )


def _samples(courses: Sequence[History], most: int) -> Iterator[comparison_pb2.ComparedSample]:
    """Prompts that at least two jobs were asked, in the order in which the first of them was."""
    # Of an attempt that was repeated at its end the newest answers count.
    asked: list[Mapping[tuple[str, str], event_pb2.Sample]] = [
        {(sample.prompt, sample.expected): sample for sample in course.samples} for course in courses
    ]
    shown = 0
    for prompt, expected in dict.fromkeys(key for answers in asked for key in answers):
        if shown == most or sum((prompt, expected) in answers for answers in asked) < 2:
            continue
        shown += 1
        compared = comparison_pb2.ComparedSample(prompt=prompt[:MAX_TEXT], expected=expected[:MAX_TEXT])
        for answers in asked:
            sample = answers.get((prompt, expected))
            answer = compared.answers.add(asked=sample is not None)
            if sample is not None:
                answer.before, answer.after = sample.before[:MAX_TEXT], sample.after[:MAX_TEXT]
                answer.exact_match = sample.exact_match
        yield compared


def _remarks(compared: Sequence[job_pb2.Job], courses: Sequence[History]) -> Iterator[check_pb2.Remark]:
    running = [job.name for job in compared if job.state not in states.TERMINAL]
    if running:
        yield check_pb2.Remark(
            code="JOBS_RUNNING", message=f"The numbers are not final: {', '.join(running)} has not ended."
        )
    leaked = [f"{course.leaked} of {job.name}" for job, course in zip(compared, courses, strict=True) if course.leaked]
    if leaked:
        text = f"Held-out rows are training rows too, so that they measure memory: {', '.join(leaked)}."
        yield check_pb2.Remark(code="ROWS_LEAKED", message=text)
    removed = [job.name for job, course in zip(compared, courses, strict=True) if course.events_removed]
    if removed:
        yield check_pb2.Remark(
            code="EVENTS_REMOVED",
            message=f"Older steps are missing, since retention has removed their events: {', '.join(removed)}.",
        )
