# SPDX-License-Identifier: Apache-2.0
"""The report as SARIF 2.1.0: a result for each limit that does not simply pass, a rule for each limit.

Waived and overridden limits are results with an accepted suppression, which code scanning shows as dismissed.
"""

import json
from typing import Any
from urllib.parse import quote

from finetree_cli.gate.report import CheckResult, PlanEntry, Report
from finetree_cli.render.gate import wording

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
FILE_RULE = "job-file"
"""Rule of a job file that cannot be read."""


def render(report: Report) -> str:
    """Format the report."""
    pairs = [pair for entry in report.plans for pair in _results(entry)]
    rules = {rule: description for rule, description, _ in pairs}
    index = {rule: number for number, rule in enumerate(rules)}
    results = [{"ruleId": rule, "ruleIndex": index[rule], **result} for rule, _, result in pairs]
    driver = {
        "name": "finetree",
        "version": report.finetree_version,
        "rules": [{"id": rule, "shortDescription": {"text": text}} for rule, text in rules.items()],
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _results(entry: PlanEntry) -> list[tuple[str, str, dict[str, Any]]]:
    """Return rule, what it is about, and the result without its rule."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    if entry.error is not None:
        problems = [(each.location.line, each.location.column, wording.problem(each)) for each in entry.error.problems]
        for line, column, message in problems or [(entry.error.line, 1, entry.error.message)]:
            place = _location(entry.file, line, column)
            text = wording.with_remedy(message, entry.error.remedy)
            result = {"level": "error", "message": {"text": text}, "locations": [place]}
            found.append((FILE_RULE, "The job file can be read", result))
    found += [(check.rule_id, f"Limit of {check.rule_id}", _result(entry, check)) for check in wording.findings(entry)]
    return found


def _result(entry: PlanEntry, check: CheckResult) -> dict[str, Any]:
    place = check.location
    result: dict[str, Any] = {
        "level": _level(entry, check),
        "message": {"text": wording.explained(check)},
        "locations": [_location(place.file, place.line, place.column)],
        "partialFingerprints": {"finetree/v1": check.fingerprint},
        "properties": {"verdict": check.verdict, "job": entry.file},
    }
    if exception := wording.exception(check):
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": exception}]
    return result


def _level(entry: PlanEntry, check: CheckResult) -> str:
    if wording.fails(entry, check):
        return "error"
    return "note" if check.verdict == "WAIVED" or check.severity == "info" else "warning"


def _location(file: str, line: int, column: int) -> dict[str, Any]:
    """A relative file is below the root of the repository, as code scanning wants it."""
    artifact = {"uri": quote(file.removeprefix("./"), safe="/")}
    if not file.startswith("/"):
        artifact["uriBaseId"] = "%SRCROOT%"
    return {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": line, "startColumn": column}}}
