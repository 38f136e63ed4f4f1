# SPDX-License-Identifier: Apache-2.0
"""The report for GitHub Actions: workflow commands on stdout, and a Markdown table in the step's summary.

The commands and their escapes are those of docs.github.com, "Workflow commands for GitHub Actions", and of the runner's
own escapeData and escapeProperty (actions/toolkit, packages/core/src/command.ts).
"""

from finetree_cli.errors import BadInput
from finetree_cli.gate.report import Location, PlanEntry, Report
from finetree_cli.render.gate.wording import revisions, setting, summary

STDIN = "<stdin>"
_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}


def render(report: Report) -> str:
    """Format an annotation for each limit that does not pass and each problem of a file."""
    return "".join(f"{line}\n" for entry in report.plans for line in _annotations(entry))


def render_summary(report: Report) -> str:
    """Format the report as Markdown."""
    lines = [f"### finetree check: {summary(report)}", ""]
    for entry in report.plans:
        if len(report.plans) > 1:
            lines += [f"#### {_cell(entry.file)}: {entry.verdict}", ""]
        lines += [*_table(entry), ""]
    if found := revisions(report.revisions):
        lines += [f"Computed with {_cell(found)}.", ""]
    return "\n".join(lines) + "\n"


def annotate(error: BadInput, file: str) -> str:
    """Format an annotation for each problem of the policy file, or one for the file itself."""
    found = [
        Location(
            file=each.position.file, line=each.position.line, column=each.position.column, field_path=each.field_path
        )
        for each in error.problems
    ]
    texts = [f"{each.field_path}: {each.message}" if each.field_path else each.message for each in error.problems]
    lines = [_command("error", text, place, error.reason) for text, place in zip(texts, found, strict=True)]
    whole = Location(file=file or STDIN, line=1, column=1, field_path="")
    return "\n".join(lines or [_command("error", error.message, whole, error.reason)])


def _annotations(entry: PlanEntry) -> list[str]:
    if entry.error is not None:
        found = [
            _command("error", f"{place.field_path}: {each.message}" if place.field_path else each.message, place, title)
            for each in entry.error.problems
            for place, title in [(each.location, entry.error.reason)]
        ]
        whole = Location(file=entry.file, line=entry.error.line, column=1, field_path="")
        return found or [_command("error", entry.error.message, whole, entry.error.reason)]
    lines = []
    for check in entry.checks:
        if check.verdict == "PASS":
            continue
        stops = check.severity == "error" and check.verdict in ("FAIL", "UNDECIDED") and not entry.passed
        text = f"{check.message}; passes with {setting(check.fix)}" if check.fix is not None else check.message
        title = f"{check.rule_id}: {check.verdict}"
        lines.append(_command("error" if stops else "warning", text, check.location, title))
    return lines


def _table(entry: PlanEntry) -> list[str]:
    if entry.error is not None:
        return [f"Not checked: {_cell(entry.error.message)}"]
    lines = ["| Limit | Verdict | Prediction |", "| --- | --- | --- |"]
    lines += [f"| `{check.rule_id}` | {check.verdict} | {_cell(check.message)} |" for check in entry.checks]
    if entry.remedies:
        lines += ["", "All limits would pass with one of:", ""]
    for remedy in entry.remedies:
        changes = ", ".join(f"`{setting(patch).replace('`', '')}`" for patch in remedy.patches)
        lines.append(f"- {_cell(remedy.summary)} ({changes})")
    if entry.no_remedy:
        lines += ["", f"No remedy: {_cell(entry.no_remedy)}"]
    return [*lines, "", f"Plan `{entry.plan_digest}`"]


def _command(kind: str, text: str, place: Location, title: str) -> str:
    at = ""
    if place.file != STDIN:
        at = f"file={_escape(place.file, _PROPERTY)},line={place.line},col={place.column},"
    return f"::{kind} {at}title={_escape(title, _PROPERTY)}::{_escape(text, _DATA)}"


def _escape(text: str, letters: dict[str, str]) -> str:
    return "".join(letters.get(letter, letter) for letter in text)


def _cell(text: str) -> str:
    """Escape text for a cell of a table."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return plain.replace("`", "\\`").replace("*", "\\*")
