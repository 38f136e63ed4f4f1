# SPDX-License-Identifier: Apache-2.0
"""The report as text for a terminal or a log."""

from finetree_cli.gate.report import PlanEntry, Report
from finetree_cli.render.gate.wording import actual_lines, figures, revisions, setting, summary


def render(report: Report) -> str:
    """Format the report: for each job its figures, its limits and what would pass."""
    lines = [line for entry in report.plans for line in [*_entry(entry), ""]]
    if report.plans:
        lines.pop()
    lines.append(f"Verdict: {summary(report)}")
    if found := revisions(report.revisions):
        lines.append(f"Computed with: {found}")
    return "\n".join(lines) + "\n"


def _entry(entry: PlanEntry) -> list[str]:
    if entry.error is not None:
        problems = [f"  {each.location.line}:{each.location.column}: {each.message}" for each in entry.error.problems]
        return [f"{entry.file}: not checked: {entry.error.message} [{entry.error.reason}]", *problems]
    lines = [f"{entry.file}: {entry.verdict}", f"  {figures(entry)}"]
    width = max((len(check.rule_id) for check in entry.checks), default=0)
    for check in entry.checks:
        lines.append(f"{check.verdict:9}  {check.rule_id:{width}}  {check.message}")
        if check.fix is not None:
            lines.append(f"{'':11}{'':{width}}  passes with {setting(check.fix)}")
    if entry.remedies:
        lines.append("All limits would pass with one of:")
    for remedy in entry.remedies:
        lines.append(f"  - {remedy.summary}")
        lines += [f"      {setting(patch)}" for patch in remedy.patches]
    if entry.no_remedy:
        lines.append(f"No remedy: {entry.no_remedy}")
    lines += [f"Note: {text}" for text in entry.assumptions]
    lines += [f"Ran: {text}" for text in actual_lines(entry)]
    lines.append(f"Plan: {entry.plan_digest}")
    return lines
