# SPDX-License-Identifier: Apache-2.0
"""Final metrics of jobs, what can be compared among them, and which job is better by more than chance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetree.joblog.metrics import UNITS
from finetree_api.trainer.v1 import comparison_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2

from finetree_trainer.jobs.compare import intervals
from finetree_trainer.jobs.compare.history import History
from finetree_trainer.jobs.compare.intervals import Measured


@dataclass(frozen=True, slots=True)
class Ranked:
    """A metric of all jobs, and what was measured, None where nothing was."""

    message: comparison_pb2.ComparedMetric
    measured: tuple[Measured | None, ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """An evaluation metric: how it is read from an evaluation, and what two evaluations must share to compare."""

    name: str
    read: Callable[[event_pb2.EvalMetrics], Measured | None]
    same: Callable[[event_pb2.EvalMetrics], str]
    count: Callable[[event_pb2.EvalMetrics], int]
    higher: bool = False


def _loss(found: event_pb2.EvalMetrics) -> Measured | None:
    error = found.loss_standard_error if found.HasField("loss_standard_error") else None
    return Measured(found.loss, error) if found.HasField("loss") else None


def _accuracy(found: event_pb2.EvalMetrics) -> Measured | None:
    error = found.token_accuracy_standard_error if found.HasField("token_accuracy_standard_error") else None
    return Measured(found.token_accuracy, error) if found.HasField("token_accuracy") else None


def _exact(found: event_pb2.EvalMetrics) -> Measured | None:
    return intervals.share(found.exact_match, found.examples) if found.HasField("exact_match") else None


KINDS = (
    _Kind("eval_loss", _loss, lambda found: found.rows_sha256, lambda found: found.rows),
    _Kind("eval_exact_match", _exact, lambda found: found.prompts_sha256, lambda found: found.examples, higher=True),
    _Kind("eval_token_accuracy", _accuracy, lambda found: found.rows_sha256, lambda found: found.rows, higher=True),
)
"""Metrics that jobs are ranked by, the one that decides first: the loss is measured wherever rows are held out, and
varies less over rows than shares do."""


def metrics(compared: Sequence[job_pb2.Job], courses: Sequence[History]) -> list[Ranked]:
    """Metrics that at least one job has, those first that jobs are ranked by."""
    found = [_evaluated(kind, compared, courses) for kind in KINDS]
    return [each for each in (*found, _trained(courses)) if any(each.measured)]


def _evaluated(kind: _Kind, compared: Sequence[job_pb2.Job], courses: Sequence[History]) -> Ranked:
    after = [_newest(kind, course, trained=True) for course in courses]
    before = [_newest(kind, course, trained=False) for course in courses]
    measured = tuple(kind.read(each) if each is not None else None for each in after)
    digests = {kind.same(each) for each in after if each is not None}
    message = comparison_pb2.ComparedMetric(
        metric=kind.name,
        unit=UNITS[kind.name],
        higher_is_better=kind.higher,
        comparable=sum(each is not None for each in after) > 1 and len(digests) == 1 and "" not in digests,
    )
    for value, evaluation, base in zip(measured, after, before, strict=True):
        written = message.values.add()
        if value is not None and evaluation is not None:
            _write(written, value, count=kind.count(evaluation), step=evaluation.step)
        of_base = kind.read(base) if base is not None else None
        if of_base is not None:
            written.before = of_base.value
    if message.comparable and (won := _winner(compared, measured, higher=kind.higher)) is not None:
        message.best = won.job
    return Ranked(message, measured)


def _newest(kind: _Kind, course: History, *, trained: bool) -> event_pb2.EvalMetrics | None:
    """The newest evaluation that has the metric: of the trained model, or of the base model."""
    found = (each for each in course.evaluations if (each.step > 0) is trained)
    return next((each for each in found if kind.read(each) is not None), None)


def _trained(courses: Sequence[History]) -> Ranked:
    """The mean training loss of the newest steps; it ranks nothing."""
    measured = tuple(intervals.mean(course.losses) if course.losses else None for course in courses)
    message = comparison_pb2.ComparedMetric(metric="loss", unit=UNITS["loss"])
    for value, course in zip(measured, courses, strict=True):
        written = message.values.add()
        if value is not None:
            _write(written, value, count=len(course.losses), step=course.newest.step)
    return Ranked(message, measured)


def _write(message: comparison_pb2.MetricValue, value: Measured, *, count: int, step: int) -> None:
    message.value, message.count, message.step = value.value, count, step
    if value.standard_error is not None:
        message.standard_error = value.standard_error
    ends = value.ends()
    if ends is not None:
        interval = evidence_pb2.Interval(low=ends[0], expected=value.value, high=ends[1], coverage=intervals.COVERAGE)
        message.interval.CopyFrom(interval)


@dataclass(frozen=True, slots=True)
class _Won:
    """The job that is better than each other one, and the closest of its differences with its ends."""

    job: int
    low: float
    difference: float
    high: float


def _closest(
    compared: Sequence[job_pb2.Job], measured: Sequence[Measured | None], *, higher: bool
) -> tuple[int, tuple[float, float, float] | None] | None:
    """The job with the best value among those that have succeeded, and the smallest of its advantages.

    None where fewer than two have a value; no advantage where an error is unknown.
    """
    values = {
        index: value
        for index, (job, value) in enumerate(zip(compared, measured, strict=True))
        if value is not None and job.state == job_pb2.JOB_STATE_SUCCEEDED
    }
    if len(values) < 2:
        return None
    leader = min(values, key=lambda index: (-values[index].value if higher else values[index].value, index))
    found = [
        intervals.advantage(values[leader], value, comparisons=len(values) - 1, higher=higher)
        for index, value in values.items()
        if index != leader
    ]
    known = [each for each in found if each is not None]
    return leader, min(known) if len(known) == len(found) else None


def _winner(compared: Sequence[job_pb2.Job], measured: Sequence[Measured | None], *, higher: bool) -> _Won | None:
    closest = _closest(compared, measured, higher=higher)
    if closest is None or closest[1] is None or closest[1][0] <= 0:
        return None
    return _Won(closest[0], *closest[1])


def best(
    compared: Sequence[job_pb2.Job], found: Sequence[Ranked]
) -> tuple[comparison_pb2.BestJob | None, list[check_pb2.Remark]]:
    """The best job by the first metric that all jobs which have succeeded have alike; else why none is named."""
    done = [index for index, job in enumerate(compared) if job.state == job_pb2.JOB_STATE_SUCCEEDED]
    if len(done) < 2:
        return None, [_remark("TOO_FEW_SUCCEEDED", "No job is ranked: fewer than two have succeeded.")]
    evaluated = [each for each in found if each.message.metric != "loss"]
    whole = [each for each in evaluated if all(each.measured[index] is not None for index in done)]
    deciding = next((each for each in whole if each.message.comparable), None)
    if deciding is None:
        return None, [_why_not(whole)]
    name, higher = deciding.message.metric, deciding.message.higher_is_better
    won = _winner(compared, deciding.measured, higher=higher)
    if won is None:
        return None, [_not_told_apart(compared, deciding)]
    interval = evidence_pb2.Interval(low=won.low, expected=won.difference, high=won.high, coverage=intervals.COVERAGE)
    named = comparison_pb2.BestJob(job=won.job, metric=name, difference=won.difference, interval=interval)
    remarks = [
        _remark(
            "ONE_RUN_EACH",
            "The interval is over rows; another seed gives another result. Train with other seeds to see that spread.",
        )
    ]
    others = [each.message for each in evaluated if each.message.HasField("best") and each.message.best != won.job]
    if others:
        names = ", ".join(f"{compared[each.best].name} by {each.metric}" for each in others)
        remarks.append(_remark("METRICS_DISAGREE", f"Another metric says otherwise: {names}."))
    return named, remarks


def _why_not(whole: Sequence[Ranked]) -> check_pb2.Remark:
    if whole:
        return _remark(
            "EVALUATION_ROWS_DIFFER",
            "No job is ranked: their evaluations are not of the same held-out rows, tokenized alike. Give the jobs one "
            "evaluation.dataset, or evaluate their artifacts on the same file.",
        )
    return _remark(
        "NO_COMMON_EVALUATION",
        "No job is ranked: they have no evaluation in common, and training losses do not tell. Hold rows out.",
    )


def _not_told_apart(compared: Sequence[job_pb2.Job], deciding: Ranked) -> check_pb2.Remark:
    name, higher = deciding.message.metric, deciding.message.higher_is_better
    closest = _closest(compared, deciding.measured, higher=higher)
    if closest is None or closest[1] is None:
        return _remark("ERROR_UNKNOWN", f"No job is ranked: the error of {name} is not known for each job.")
    low, difference, high = closest[1]
    text = (
        f"No job is ranked: {compared[closest[0]].name} has the best {name}, by {difference:.4g} "
        f"({low:.4g} to {high:.4g}), which may be chance. More held-out rows tell more."
    )
    return _remark("NOT_TOLD_APART", text)


def _remark(code: str, message: str) -> check_pb2.Remark:
    return check_pb2.Remark(code=code, message=message)
