# SPDX-License-Identifier: Apache-2.0
"""The report as GitLab's code quality report: a finding for each limit that does not simply pass.

docs.gitlab.com, "Code Quality", section "Code Quality report format": a list of objects, relative paths without "./",
a fingerprint that no other finding of the report has.
"""

import json
from typing import Any

from finetree_cli.gate.report import CheckResult, PlanEntry, Report, fingerprint
from finetree_cli.render.gate import wording


def render(report: Report) -> str:
    """Format the report."""
    found = [finding for entry in report.plans for finding in _findings(entry)]
    unique = {finding["fingerprint"]: finding for finding in reversed(found)}
    return json.dumps(list(reversed(unique.values())), indent=2, ensure_ascii=False) + "\n"


def _findings(entry: PlanEntry) -> list[dict[str, Any]]:
    found = []
    if entry.error is not None:
        lines = [(each.location.line, wording.problem(each)) for each in entry.error.problems]
        for line, message in lines or [(entry.error.line, entry.error.message)]:
            name = fingerprint(entry.file, entry.error.reason, f"{line}: {message}")
            text = wording.with_remedy(message, entry.error.remedy)
            found.append(_finding(text, entry.error.reason, "blocker", name, (entry.file, line)))
    for check in wording.findings(entry):
        place = (check.location.file, check.location.line)
        text = wording.explained(check)
        found.append(_finding(text, check.rule_id, _severity(entry, check), check.fingerprint, place))
    return found


def _finding(text: str, rule: str, severity: str, name: str, place: tuple[str, int]) -> dict[str, Any]:
    file, line = place
    location = {"path": file.removeprefix("./"), "lines": {"begin": line}}
    return {
        "description": text,
        "check_name": f"finetree/{rule}",
        "fingerprint": name,
        "severity": severity,
        "location": location,
    }


def _severity(entry: PlanEntry, check: CheckResult) -> str:
    if wording.fails(entry, check):
        return "critical"
    return "info" if check.verdict == "WAIVED" or check.severity == "info" else "minor"
