# SPDX-License-Identifier: Apache-2.0
"""A plan of plan.json as the job to create: only while it is what was approved, and with who let it pass."""

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetree_cli.errors import BadInput, FileProblem, GateFailed
from finetree_cli.gate.entry import data_files
from finetree_cli.gate.job_files import ReadJob, read_jobs
from finetree_cli.gate.report import PlanEntry, Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from finetree_api.trainer.v1 import trainer_pb2
    from finetree_api.types.v1 import evidence_pb2, run_spec_pb2

    from finetree_cli.jobfile.job import JobFile

ANNOTATION = "finetree/"
"""Begins the keys of what a job keeps of its approval."""
MAX_KEY = 63
"""Longest key of an annotation."""
MAX_VALUE = 4096
"""Longest value of an annotation."""
SECONDS_PER_DAY = 86_400
_AGAIN = "run `finetree check` again, and have the new plan approved"
_PROFILE = "job.train.approved_plan.dataset_profile"
"""Violations below it follow from the rows being read by the trainer."""


def choose_entry(report: Report, file: str | None) -> PlanEntry:
    """Return the plan of a job file; `file` may be left out where there is one plan.

    Raises:
        BadInput: No plan or several.
    """
    present = [entry for entry in report.plans if entry.change != "removed"]
    names = [entry.file for entry in present]
    if file is None:
        if len(present) == 1:
            return present[0]
        remedy = f"name one of its job files: {', '.join(names)}"
        raise BadInput(f"{len(names)} plans are in the plan file", remedy=remedy, reason="PLAN_NOT_CHOSEN")
    wanted = Path(file).as_posix()
    found = next((entry for entry in present if entry.file == wanted), None)
    if found is None:
        raise BadInput(f"{file}: not in the plan file, which has {', '.join(names)}", reason="PLAN_NOT_CHOSEN")
    return found


def require_passed(report: Report, entry: PlanEntry, *, today: date, max_age: float | None = None) -> None:
    """Raise GateFailed unless the gate let the plan through and nothing that it rests on has run out.

    Args:
        report: the plan file.
        entry: its plan.
        today: day on which waivers must hold.
        max_age: longest time since the check in seconds; the check's day counts from its end.
    """
    if entry.error is not None or entry.plan is None or entry.plan_digest is None:
        raise GateFailed(f"{entry.file} was not checked", remedy=_AGAIN, reason="PLAN_NOT_PASSED")
    if not entry.passed:
        rules = ", ".join(
            check.rule_id
            for check in entry.checks
            if check.verdict in ("FAIL", "UNDECIDED") and check.severity == "error"
        )
        raise GateFailed(
            f"the plan of {entry.file} did not pass: {entry.verdict}" + (f" ({rules})" if rules else ""),
            remedy="change the job until `finetree check` passes",
            reason="PLAN_NOT_PASSED",
        )
    stale = [*_expired(entry, today), *_too_old(report, today, max_age), *_policy_changed(report)]
    if stale:
        raise GateFailed(f"the plan of {entry.file} is stale: {'; '.join(stale)}", remedy=_AGAIN, reason="PLAN_STALE")


def read_approved_job(entry: PlanEntry, resolve: "Callable[[JobFile], run_spec_pb2.RunSpec | None]") -> "JobFile":
    """Read the job file of a plan and put the plan's resolved run into it.

    Args:
        entry: the plan.
        resolve: fills in the defaults of the present job file, to name what differs; None where nothing can.

    Raises:
        BadInput: The job file cannot be read.
        GateFailed: The job file or its data has changed since the check.
    """
    if entry.file == "<stdin>":
        text = "the plan is of a job from the standard input, which is not here any more"
        raise BadInput(text, remedy="check the job as a file", reason="JOB_FILE_UNREADABLE")
    (read,) = read_jobs([entry.file], given=[entry.file])
    if isinstance(read.job, BadInput):
        raise read.job
    approved = approved_plan(entry)
    if read.sha256 != entry.file_sha256:
        raise _changed(entry, read, read.job, approved, resolve)
    job = read.job
    job.spec.CopyFrom(approved.spec)
    present = {each.field_path: each for each in data_files(job)}
    checked = {each.field_path: each for each in entry.data_files}
    for field_path in sorted(present.keys() | checked.keys()):
        before, after = checked.get(field_path), present.get(field_path)
        if before is None or after is None or before.sha256 != after.sha256:
            name = (after or before or checked[field_path]).path
            text = f"{name} has changed since the check" if before and after else f"{name} was not there at the check"
            text = text if after else f"{name} is missing"
            raise GateFailed(f"{entry.file}: {text}", remedy=_AGAIN, reason="PLAN_STALE")
    return job


def approved_plan(entry: PlanEntry) -> "run_spec_pb2.Plan":
    """Convert the plan to the contract's message. Raises BadInput where it is none."""
    from finetree import InvalidSpec
    from finetree.spec import message_from_dict
    from finetree_api.types.v1 import run_spec_pb2

    try:
        return message_from_dict(run_spec_pb2.Plan, entry.plan or {})
    except InvalidSpec as error:
        raise BadInput(f"the plan of {entry.file} is no plan: {error.message}", reason="PLAN_FILE_INVALID") from error


def annotations(report: Report, entry: PlanEntry) -> dict[str, str]:
    """Return what the job keeps of its approval: digest, job file, policy, overrides and waivers."""
    found = {"plan-digest": entry.plan_digest or "", "job-file": entry.file}
    if report.policy is not None:
        named = f" {entry.policy}" if entry.policy else ""
        found["policy"] = f"{report.policy.file}{named} (sha256:{report.policy.sha256})"
    for check in entry.checks:
        if check.override is not None and check.verdict == "WAIVED":
            found[f"override.{check.rule_id}"] = f"{check.override.by}: {check.override.reason}"
        if check.waiver is not None and check.verdict == "WAIVED":
            until = f" until {check.waiver.until}" if check.waiver.until else ""
            found[f"waiver.{check.rule_id}"] = f"{check.waiver.owner}{until}: {check.waiver.reason}"
    return {f"{ANNOTATION}{key}"[:MAX_KEY].rstrip("./-_"): value[:MAX_VALUE] for key, value in found.items()}


def require_same_but_data(
    entry: PlanEntry,
    violations: "list[tuple[str, str]]",
    present: "trainer_pb2.ValidateJobResponse",
    uploaded: Mapping[str, Any],
) -> None:
    """Accept a plan that differs from the approved one only by what the trainer says of the data that was checked.

    The data files are those of the check, by their hash: the trainer names them as datasets of its own and may know
    their rows better. What is then expected must keep the limits that were kept.

    Args:
        entry: the approved plan.
        violations: field and text of each difference, as PLAN_DRIFT names them.
        present: the plan that would run.
        uploaded: data that was uploaded, by its RunSpec path.

    Raises:
        GateFailed: Another field differs, or a limit is no longer kept.
    """
    allowed = [f"job.train.spec.{field_path}" for field_path in uploaded]
    # A dataset of the trainer never changes; a file below one of its data roots may.
    if "dataset" in uploaded or approved_plan(entry).spec.dataset.WhichOneof("source") == "name":
        allowed.append(_PROFILE)
    others = [
        f"{field.removeprefix('job.train.').removeprefix('spec.')}: {text}"
        for field, text in violations
        if not any(field == each or field.startswith(f"{each}.") for each in allowed)
    ]
    if others:
        raise drift(entry, others)
    broken = list(_no_longer_kept(entry, present))
    if broken:
        raise GateFailed(
            f"the plan of {entry.file} no longer passes: by the rows as the trainer reads them, {'; '.join(broken)}",
            remedy=_AGAIN,
            reason="PLAN_STALE",
        )


def drift(entry: PlanEntry, differences: list[str]) -> GateFailed:
    """Make the refusal of a plan that is no longer the approved one."""
    count = "1 field differs" if len(differences) == 1 else f"{len(differences)} fields differ"
    return GateFailed(
        f"the plan of {entry.file} is not the approved one: {count}: {'; '.join(differences)}",
        remedy=_AGAIN,
        reason="PLAN_DRIFT",
    )


def spec_differences(approved: "run_spec_pb2.RunSpec", present: "run_spec_pb2.RunSpec") -> Iterator[tuple[str, str]]:
    """Yield path and text of each setting in which two resolved runs differ."""
    from finetree import to_json

    before, after = dict(_leaves(to_json(approved), "")), dict(_leaves(to_json(present), ""))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            yield path, f"approved {before.get(path, 'unset')}, now {after.get(path, 'unset')}"


def _changed(
    entry: PlanEntry,
    read: ReadJob,
    job: "JobFile",
    approved: "run_spec_pb2.Plan",
    resolve: "Callable[[JobFile], run_spec_pb2.RunSpec | None]",
) -> GateFailed | BadInput:
    """Say that a job file has changed, with the settings that differ."""
    present = resolve(job)
    differences = list(spec_differences(approved.spec, present)) if present is not None else []
    if not differences:
        why = "; none of its run's settings differs" if present is not None else ""
        return GateFailed(f"{read.file} has changed since the check{why}", remedy=_AGAIN, reason="PLAN_STALE")
    problems = [FileProblem(job.position_of(f"train.spec.{path}"), path, text) for path, text in differences]
    count = "1 setting differs" if len(problems) == 1 else f"{len(problems)} settings differ"
    return GateFailed(
        f"{entry.file} has changed since the check, {count}: " + "; ".join(map(str, problems)),
        remedy=_AGAIN,
        reason="PLAN_DRIFT",
    )


def _expired(entry: PlanEntry, today: date) -> Iterator[str]:
    for check in entry.checks:
        until = check.waiver.until if check.waiver is not None and check.verdict == "WAIVED" else ""
        if until and _day(until, f"until of the waiver of {check.rule_id}") < today:
            yield f"the waiver of {check.rule_id} expired after {until}"


def _too_old(report: Report, today: date, max_age: float | None) -> Iterator[str]:
    age = (today - _day(report.as_of, "as_of")).days
    if max_age is not None and age * SECONDS_PER_DAY > max_age:
        yield f"it was checked on {report.as_of}, {age} days ago"


def _day(text: str, name: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"the plan file's {name} is no day: {text!r}", reason="PLAN_FILE_INVALID") from error


def _policy_changed(report: Report) -> Iterator[str]:
    from finetree_cli.gate.policy.file import file_sha256

    if report.policy is None or not Path(report.policy.file).is_file():
        return
    if file_sha256(report.policy.file) != report.policy.sha256:
        yield f"{report.policy.file} has changed"


def _no_longer_kept(entry: PlanEntry, present: "trainer_pb2.ValidateJobResponse") -> Iterator[str]:
    """Compare what the trainer expects with the limits that passed."""
    now: dict[str, evidence_pb2.Interval] = {}
    if present.estimate.HasField("total_seconds"):
        now["duration_seconds"] = present.estimate.total_seconds
    if present.estimate.HasField("cost"):
        now["cost"] = present.estimate.cost.amount
    if present.estimate.HasField("device_bytes"):
        now["device_bytes"] = present.estimate.device_bytes
    for check in entry.checks:
        found = now.get(check.rule_id)
        if found is None or check.limit is None or check.measured is None or check.severity != "error":
            continue
        kept = check.measured.high if check.verdict == "PASS" else check.measured.expected
        value = found.high if check.verdict == "PASS" else found.expected
        if check.verdict in ("PASS", "WARN") and kept <= check.limit < value:
            unit = f" {check.currency_code}" if check.currency_code else ""
            yield f"{check.rule_id} may reach {value:.4g}{unit}, limit {check.limit:.4g}{unit}"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every value that is no object."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    else:
        yield path, str(value)
