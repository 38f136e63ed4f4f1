# SPDX-License-Identifier: Apache-2.0
"""Entries of the report: an answer of CheckPlan, or the reason why a job file has none."""

import hashlib
from typing import TYPE_CHECKING, Any, cast

from finetree.display import units
from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, evidence_pb2, run_spec_pb2

from finetree_cli.errors import BadInput
from finetree_cli.gate import report as doc
from finetree_cli.gate.undecided import message_with_option
from finetree_cli.options.flag_names import ASSUMED
from finetree_cli.output import as_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finetree_cli.gate.job_files import ReadJob
    from finetree_cli.jobfile.job import JobFile

SPEC = "train.spec."


def checked_entry(
    read: "ReadJob",
    job: "JobFile",
    *,
    request: check_plan_pb2.CheckPlanRequest,
    answer: check_plan_pb2.CheckPlanResponse,
    policy: str,
    profile_source: str,
) -> doc.PlanEntry:
    """Make the entry of a job that was checked."""
    estimate = answer.estimate
    verdict = _verdict(answer.verdict)
    return doc.PlanEntry(
        file=read.file,
        file_sha256=read.sha256,
        verdict=verdict,
        passed=verdict not in ("FAIL", "UNDECIDED"),
        policy=policy,
        undecided=_undecided(request.policy.undecided),
        plan_digest=estimate.plan_digest,
        plan=as_dict(_plan(request.run, estimate)),
        data_files=tuple(data_files(job)),
        memory_bytes=_range(estimate.memory.device_bytes) if estimate.HasField("memory") else None,
        usable_memory_bytes=estimate.memory.usable_device_bytes or None,
        duration_seconds=_range(estimate.time.total_seconds) if estimate.HasField("time") else None,
        cost=_cost(estimate.cost),
        energy_kwh=_range(estimate.cost.energy_kwh) if estimate.cost.HasField("energy_kwh") else None,
        carbon_kg=_range(estimate.cost.carbon_kg) if estimate.cost.HasField("carbon_kg") else None,
        fit=cast("doc.Fit", _word(estimate_summary_pb2.FitVerdict, estimate.fit.verdict, otherwise="UNKNOWN")),
        memory_confidence=_confidence(estimate.confidence.memory),
        time_confidence=_confidence(estimate.confidence.time),
        price=_price(estimate.cost),
        checks=tuple(_check(each, job) for each in answer.checks),
        remedies=tuple(
            doc.Remedy(summary=each.summary, patches=tuple(_patch(patch) for patch in each.patches))
            for each in answer.remedies
        ),
        no_remedy=answer.no_remedy,
        assumptions=tuple(map(_assumption, estimate.remarks)),
        profile=_profile(request.run, estimate, profile_source or job.spec.dataset.path),
    )


def _assumption(remark: check_pb2.Remark) -> str:
    """Return a remark's text; of a setting that the job leaves open, with the job file's key that sets it."""
    key = remark.field_path.removeprefix("spec.")
    return f"{remark.message} ({key})" if remark.code == ASSUMED and key else remark.message


def refused_entry(read: "ReadJob", error: "BadInput") -> doc.PlanEntry:
    """Make the entry of a job file that could not be checked."""
    problems = tuple(
        doc.Problem(
            location=doc.Location(
                file=each.position.file,
                line=each.position.line,
                column=each.position.column,
                field_path=each.field_path,
            ),
            message=each.message,
        )
        for each in error.problems
    )
    line = problems[0].location.line if problems else 1
    refusal = doc.FileError(
        reason=error.reason, message=error.message, line=line, remedy=error.remedy, problems=problems
    )
    return doc.PlanEntry(file=read.file, file_sha256=read.sha256, verdict="FAIL", passed=False, error=refusal)


def revisions(revision: evidence_pb2.Revision) -> doc.Revisions:
    """Convert the revisions that an answer was computed with."""
    found = {
        name: doc.Component(id=part.id, sha256=part.sha256, date=part.date)
        for name in ("engine", "catalog", "price_book", "calibration")
        if revision.HasField(cast("Any", name)) and (part := getattr(revision, name))
    }
    return doc.Revisions(**found)


def data_files(job: "JobFile") -> "Iterator[doc.DataFile]":
    """Name the data files beside a job file with their content's hash. Raises BadInput for one that cannot be read."""
    for item in job.local_data():
        try:
            with item.path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BadInput(f"{item.path}: {error.strerror or error}", reason="DATA_FILE_UNREADABLE") from error
        yield doc.DataFile(field_path=item.field_path, path=item.path.as_posix(), sha256=digest)


def _plan(run: estimate_pb2.EstimateRunRequest, estimate: estimate_pb2.Estimate) -> run_spec_pb2.Plan:
    """Build the plan that the digest belongs to: the profile that counts is the request's, else the spec's own."""
    plan = run_spec_pb2.Plan(spec=estimate.resolved_spec, revision=estimate.revision, digest=estimate.plan_digest)
    if run.HasField("dataset_profile"):
        plan.dataset_profile.CopyFrom(run.dataset_profile)
    return plan


def _check(check: check_pb2.Check, job: "JobFile") -> doc.CheckResult:
    position = job.position_of(SPEC + check.field_path)
    severity = cast("doc.Severity", _word(check_pb2.Severity, check.severity, otherwise="ERROR").lower())
    return doc.CheckResult(
        rule_id=check.rule_id,
        severity=severity,
        level=_level(check.level, severity),
        verdict=_verdict(check.verdict),
        measured=_range(check.measured) if check.HasField("measured") else None,
        limit=check.limit if check.HasField("limit") else None,
        measured_name=check.measured_name,
        allowed=tuple(check.allowed) or None,
        denied=tuple(check.denied) or None,
        unit=cast("doc.Unit", _word(check_pb2.CheckUnit, check.unit, otherwise="").lower()),
        currency_code=check.currency_code,
        base=_range(check.base) if check.HasField("base") else None,
        location=doc.Location(
            file=position.file, line=position.line, column=position.column, field_path=check.field_path
        ),
        fix=_patch(check.fix) if check.HasField("fix") else None,
        message=message_with_option(check),
        waiver=doc.Waiver(reason=check.waiver.reason, owner=check.waiver.owner, until=check.waiver.until)
        if check.HasField("waiver")
        else None,
        override=doc.Override(by=check.override.by, reason=check.override.reason)
        if check.HasField("override")
        else None,
        fingerprint=doc.fingerprint(job.file, check.rule_id, check.field_path),
    )


def _level(level: int, severity: doc.Severity) -> doc.Level:
    """Return a limit's level; a service that knows none has limits that bind by their severity."""
    usual = "HARD" if severity == "error" else "ADVISORY"
    return cast("doc.Level", _word(check_pb2.LimitLevel, level, otherwise=usual).lower())


def _undecided(treatment: int) -> doc.Undecided:
    return cast("doc.Undecided", _word(check_plan_pb2.UndecidedPolicy, treatment, otherwise="FAIL").lower())


def _patch(patch: check_pb2.SpecPatch) -> doc.Patch:
    return doc.Patch(field_path=patch.field_path, value=as_dict(patch).get("value"), summary=patch.summary)


def _range(interval: evidence_pb2.Interval) -> doc.Range:
    return doc.Range(low=interval.low, expected=interval.expected, high=interval.high)


def _cost(cost: estimate_pb2.CostEstimate) -> doc.Cost | None:
    if not cost.HasField("total"):
        return None
    amount = cost.total.amount
    return doc.Cost(low=amount.low, expected=amount.expected, high=amount.high, currency_code=cost.total.currency_code)


def _price(cost: estimate_pb2.CostEstimate) -> doc.Price | None:
    if not cost.price_id:
        return None
    return doc.Price(id=cost.price_id, provider=cost.provider, region=cost.region, date=cost.price_date)


def _profile(run: estimate_pb2.EstimateRunRequest, estimate: estimate_pb2.Estimate, source: str) -> doc.Profile | None:
    spec = estimate.resolved_spec
    if run.HasField("dataset_profile"):
        found = run.dataset_profile
    elif spec.dataset.WhichOneof("source") == "profile":
        found, source = spec.dataset.profile, "job"
    else:
        return None
    return doc.Profile(
        examples=found.examples,
        total_tokens=found.total_tokens if found.HasField("total_tokens") else None,
        target_fraction=found.target_fraction if found.HasField("target_fraction") else None,
        exact=found.exact,
        source=source,
    )


def _confidence(level: int) -> doc.Confidence:
    return cast("doc.Confidence", _word(evidence_pb2.ConfidenceLevel, level, otherwise="UNKNOWN").lower())


def _verdict(verdict: int) -> doc.Verdict:
    """Return a verdict; one that only a newer server knows decides nothing here, and never passes."""
    return cast("doc.Verdict", _word(check_pb2.CheckVerdict, verdict, otherwise="UNDECIDED"))


def _word(enum: Any, number: int, *, otherwise: str) -> str:
    """Return the contract's name of a value without its prefix; `otherwise` for an unset and for a newer one."""
    if not number or number not in enum.DESCRIPTOR.values_by_number:
        return otherwise
    return units.word(enum, number).upper().replace(" ", "_")
