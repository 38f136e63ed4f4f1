# SPDX-License-Identifier: Apache-2.0
"""The report as workflow commands of GitHub Actions: each becomes an annotation of a line of a job file.

The commands and their escapes are those of docs.github.com, "Workflow commands for GitHub Actions", and of the runner's
own escapeData and escapeProperty (actions/toolkit, packages/core/src/command.ts). A step shows ten errors and ten
warnings at most, so those that stop a job come first, and the last place says how many there are beyond it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from finetree_cli.errors import BadInput
from finetree_cli.gate.report import CheckResult, PlanEntry, Report
from finetree_cli.render.gate import wording
from finetree_cli.render.gate.escaping import one_line

SHOWN = 10
"""Annotations of a kind that GitHub shows for a step."""
STDIN = "<stdin>"
_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}


@dataclass(frozen=True, slots=True)
class _Annotation:
    kind: str
    title: str
    text: str
    file: str = ""
    line: int = 1
    column: int = 1

    def command(self) -> str:
        place = ""
        if self.file and self.file != STDIN:
            name = _escape(self.file.removeprefix("./"), _PROPERTY)
            place = f"file={name},line={self.line},col={self.column},"
        return f"::{self.kind} {place}title={_escape(one_line(self.title), _PROPERTY)}::{_escape(self.text, _DATA)}"


def render(report: Report) -> str:
    """Format the report: one command on each line, none where every limit passes."""
    found = [each for entry in wording.in_order(report.plans) for each in _annotations(entry)]
    return _commands(found)


def annotate(error: BadInput, file: str) -> str:
    """Format the mistakes of a file that stop the whole command, or one for the file itself; "" is no file."""
    found = [
        _Annotation(
            "error",
            error.reason,
            wording.with_remedy(
                f"{each.field_path}: {each.message}" if each.field_path else each.message, error.remedy
            ),
            each.position.file,
            each.position.line,
            each.position.column,
        )
        for each in error.problems
    ]
    whole = _Annotation("error", error.reason, wording.with_remedy(error.message, error.remedy), file)
    return _commands(found or [whole]).removesuffix("\n")


def _annotations(entry: PlanEntry) -> list[_Annotation]:
    found = []
    if entry.error is not None:
        reason, remedy = entry.error.reason, entry.error.remedy
        for each in entry.error.problems:
            place = each.location
            text = wording.with_remedy(wording.problem(each), remedy)
            found.append(_Annotation("error", reason, text, place.file, place.line, place.column))
        if not entry.error.problems:
            text = wording.with_remedy(entry.error.message, remedy)
            found.append(_Annotation("error", reason, text, entry.file, entry.error.line))
    for check in wording.findings(entry):
        place = check.location
        title = f"{check.rule_id}: {check.verdict}"
        text = wording.explained(check)
        found.append(_Annotation(_kind(entry, check), title, text, place.file, place.line, place.column))
    return found


def _kind(entry: PlanEntry, check: CheckResult) -> str:
    if wording.fails(entry, check):
        return "error"
    return "notice" if check.verdict == "WAIVED" or check.severity == "info" else "warning"


def _commands(found: Iterable[_Annotation]) -> str:
    listed = list(found)
    lines = []
    for kind in ("error", "warning", "notice"):
        of_kind = [each for each in listed if each.kind == kind]
        shown, rest = of_kind, len(of_kind) - SHOWN
        if rest > 0:
            text = f"{rest + 1} more are in the step's summary"
            shown = [*of_kind[: SHOWN - 1], _Annotation(kind, "finetree", text)]
        lines += [each.command() for each in shown]
    return "".join(f"{line}\n" for line in lines)


def _escape(text: str, letters: dict[str, str]) -> str:
    return "".join(letters.get(letter, letter) for letter in text)
