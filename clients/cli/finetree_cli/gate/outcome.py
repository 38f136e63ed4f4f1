# SPDX-License-Identifier: Apache-2.0
"""The outcome of a check as an exit code and one message."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput, CliError, FileProblem, GateFailed, Position
from finetree_cli.gate.report import CheckResult, PlanEntry, Report
from finetree_cli.gate.undecided import lengths_remedy

if TYPE_CHECKING:
    from finetree_api.types.v1 import check_pb2


def failure(report: Report) -> CliError | None:
    """Return the error to exit with; None if the gate lets every job through.

    A job file that could not be checked counts before a limit that fails.
    """
    if refused := [entry for entry in report.plans if entry.error is not None]:
        return _refused(refused, len(report.plans))
    stopped = [entry for entry in report.plans if not entry.passed]
    if not stopped:
        return None
    failed = any(check.verdict == "FAIL" for entry in stopped for check in stopping(entry))
    if len(report.plans) == 1:
        text = _what(stopped[0])
        message = text if text.startswith("undecided") else f"the plan does not meet {text}"
    else:
        count = f"{len(stopped)} of {len(report.plans)} jobs {'does' if len(stopped) == 1 else 'do'} not pass"
        message = f"{count}: " + "; ".join(f"{entry.file} ({_what(entry)})" for entry in stopped)
    reason = "CHECK_FAILED" if failed else "CHECK_UNDECIDED"
    return GateFailed(message, remedy="\n  ".join(_remedies(stopped, failed=failed)), reason=reason, reported=True)


def stopping(entry: PlanEntry) -> list[CheckResult]:
    """Return the limits that stop a job; undecided ones may be let through by its policy."""
    bad = ("FAIL", "UNDECIDED") if entry.undecided == "fail" else ("FAIL",)
    return [check for check in entry.checks if check.severity == "error" and check.verdict in bad]


def require_known(report: Report, overrides: "Iterable[check_pb2.Override]") -> None:
    """Raise BadInput for an override of a limit that no job has: a misspelled one would lift nothing."""
    known = {check.rule_id for entry in report.plans for check in entry.checks}
    for override in overrides:
        if known and override.rule_id not in known:
            text = f"--override {override.rule_id}: no limit has this id; there are {', '.join(sorted(known))}"
            raise BadInput(text, reason="OVERRIDE_WITHOUT_LIMIT")


def _what(entry: PlanEntry) -> str:
    """Name the limits that stop a job: "cost, fit; undecided: duration_seconds"."""
    failed = [check.rule_id for check in stopping(entry) if check.verdict == "FAIL"]
    undecided = [check.rule_id for check in stopping(entry) if check.verdict == "UNDECIDED"]
    parts = [", ".join(failed)] if failed else []
    parts += [f"undecided: {', '.join(undecided)}"] if undecided else []
    return "; ".join(parts)


def _remedies(stopped: list[PlanEntry], *, failed: bool) -> list[str]:
    """Say what gives a missing number, what would pass, and how undecided limits are let through."""
    found: dict[str, None] = {}
    for entry in stopped:
        prefix = f"{entry.file}: " if len(stopped) > 1 else ""
        for check in stopping(entry):
            if check.verdict == "UNDECIDED" and check.measured is None:
                found[f"{prefix}{check.message}"] = None
            elif remedy := lengths_remedy(check.location.field_path):
                found[f"{prefix}{remedy}"] = None
        if entry.remedies:
            found[f"{prefix}would pass: {entry.remedies[0].summary}"] = None
    if not failed:
        found["--fail-on fail makes undecided limits warn only"] = None
    return list(found)


def _refused(refused: list[PlanEntry], count: int) -> BadInput:
    errors = [entry.error for entry in refused if entry.error is not None]
    problems = [
        FileProblem(
            Position(each.location.file, each.location.line, each.location.column),
            each.location.field_path,
            each.message,
        )
        for error in errors
        for each in error.problems
    ]
    message = errors[0].message
    if count > 1:
        listed = "; ".join(error.message for error in errors)
        message = f"{len(errors)} of {count} job files could not be checked: {listed}"
    error = BadInput(message, remedy=_remedy_of(refused), reason=errors[0].reason, problems=problems)
    error.reported = True
    return error


def _remedy_of(refused: list[PlanEntry]) -> str:
    """Say what to do about each file, once where it is the same for all."""
    files: dict[str, list[str]] = {}
    for entry in refused:
        if entry.error is not None and entry.error.remedy:
            files.setdefault(entry.error.remedy, []).append(entry.file)
    return "\n  ".join(
        remedy if len(named) == len(refused) else f"{', '.join(named)}: {remedy}" for remedy, named in files.items()
    )
