# SPDX-License-Identifier: Apache-2.0
"""The report as text for a terminal or a log.

Foreign text stays on its line, and no line begins with it: GitHub's runner takes a line that begins with `::` as a
command.
"""

from finetree_cli.gate.report import CheckResult, PlanEntry, Report
from finetree_cli.render.gate import wording
from finetree_cli.render.gate.escaping import one_line


def render(report: Report) -> str:
    """Format the report: one line for a job that needs no attention, all about one that does, or about a single job."""
    result: list[str] = []
    alone = len(report.plans) == 1
    for entry in reversed(wording.in_order(report.plans)):  # what needs attention stands nearest to the prompt
        quiet = not alone and entry.verdict == "PASS" and entry.error is None and entry.actual is None
        result += _brief(entry) if quiet else _whole(entry)
    if wording.is_compared(report):
        counts, *sums = wording.total_lines(report)
        result += [f"{counts}, against {one_line(report.base_ref)}" if report.base_ref else counts, *sums]
    if alone or any(wording.verdict(entry) for entry in report.plans):
        result.append(f"Verdict: {report.verdict if alone else wording.summary(report)}")
    if alone and report.plans[0].plan_digest is not None:
        result.append(f"Plan: {report.plans[0].plan_digest}")
    versions = wording.revisions(report.revisions)
    if versions:
        result.append(f"Computed with: {versions}")
    return "\n".join(result) + "\n"


def _brief(entry: PlanEntry) -> list[str]:
    found = wording.lines(entry)
    if entry.change == "changed":
        return [_title(entry), *_figures(entry)]
    values = ", ".join(f"{line.name} {line.value.partition(' (')[0]}" for line in found)
    return [f"{_title(entry)}: {values}"]


def _whole(entry: PlanEntry) -> list[str]:
    result = [_title(entry)]
    if entry.error is not None:
        result.append(f"  {one_line(entry.error.message)} [{entry.error.reason}]")
        result += [f"    line {each.location.line}: {one_line(wording.problem(each))}" for each in entry.error.problems]
        result += [f"    {one_line(entry.error.remedy)}"] if entry.error.remedy else []
        return result
    width = max((len(check.rule_id) for check in entry.checks), default=0)
    for check in entry.checks:
        result += _check(check, width)
    if entry.remedies:
        result.append("  Every limit would pass with one of:")
    for remedy in entry.remedies:
        result.append(f"  - {one_line(remedy.summary)}")
        result += [f"      {wording.setting(patch)}" for patch in remedy.patches]
    if entry.no_remedy:
        result.append(f"  No remedy: {one_line(entry.no_remedy)}")
    result += _figures(entry)
    for line in wording.actual_lines(entry):
        result.append(f"  ran: {line.name:7} {line.actual}, estimated {line.estimate}")
    if rows := wording.data(entry):
        result.append(f"  data    {one_line(rows)}")
    if entry.assumptions:
        result.append(f"  Assumed: {one_line('; '.join(entry.assumptions))}")
    return result


def _title(entry: PlanEntry) -> str:
    """Name a job after its verdict, or after its change where nothing was checked."""
    verdict, change = wording.verdict(entry), wording.change_of(entry, one_line)
    if not verdict:
        former = f" (was {one_line(entry.former_file)})" if entry.former_file else ""
        return f"{entry.change or '':9}  {one_line(entry.file)}{former}"
    return f"{verdict:9}  {one_line(entry.file)}{f' ({change})' if change else ''}"


def _check(check: CheckResult, width: int) -> list[str]:
    lines = [f"  {check.verdict:9}  {check.rule_id:{width}}  {one_line(check.message)}"]
    indent = " " * (13 + width + 2)
    if text := wording.exception(check):
        lines.append(f"{indent}{one_line(text)}")
    if check.fix is not None and check.verdict != "PASS":
        lines.append(f"{indent}passes with {wording.setting(check.fix)}")
    return lines


def _figures(entry: PlanEntry) -> list[str]:
    result = []
    for line in wording.lines(entry):
        change = f"  {line.change}" if line.change and entry.change == "changed" else ""
        result.append(f"  {line.name:7} {line.value}{change}")
    return result
