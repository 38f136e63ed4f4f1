# SPDX-License-Identifier: Apache-2.0
"""Checks for GitHub Actions: workflow commands on stdout, and a Markdown table in the step's summary.

The commands and their escapes are those of docs.github.com, "Workflow commands for GitHub Actions", and of the runner's
own escapeData and escapeProperty (actions/toolkit, packages/core/src/command.ts).
"""

import os
from pathlib import Path

from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.types.v1 import check_pb2

from finetree_cli.errors import BadInput, Position
from finetree_cli.gate.undecided import message_with_option
from finetree_cli.jobfile.job import SPEC, JobFile
from finetree_cli.output import Output
from finetree_cli.render.estimator.check import revision, setting, verdict

SUMMARY = "GITHUB_STEP_SUMMARY"
"""Environment variable with the file of the step's summary."""
STDIN = "<stdin>"
_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}


def show(out: Output, answer: check_plan_pb2.CheckPlanResponse, job: JobFile, *, failed: bool) -> None:
    """Print an annotation for each limit that does not pass, and append the summary."""
    for check in answer.checks:
        if check.verdict == check_pb2.CHECK_VERDICT_PASS:
            continue
        is_error = check.verdict == check_pb2.CHECK_VERDICT_FAIL or failed
        position = job.position_of(SPEC + check.field_path)
        text = message_with_option(check)
        if check.HasField("fix"):
            text += f"; passes with {setting(check.fix)}"
        title = f"{check.rule_id}: {verdict(check.verdict)}"
        out.text(_command("error" if is_error else "warning", text, position, title))
    _append(out, table(answer))


def annotate_problems(out: Output, error: BadInput, file: str) -> None:
    """Print an annotation for each problem of a file, or one for the file itself."""
    for problem in error.problems:
        text = f"{problem.field_path}: {problem.message}" if problem.field_path else problem.message
        out.text(_command("error", text, problem.position, error.reason))
    if not error.problems:
        out.text(_command("error", error.message, Position(file, 1, 1), error.reason))


def table(answer: check_plan_pb2.CheckPlanResponse) -> str:
    """Format the checks as Markdown."""
    lines = [
        f"### finetree check: {verdict(answer.verdict)}",
        "",
        "| Limit | Verdict | Prediction |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| `{check.rule_id}` | {verdict(check.verdict)} | {_cell(message_with_option(check))} |"
        for check in answer.checks
    ]
    if answer.remedies:
        lines += ["", "All limits would pass with one of:", ""]
    for remedy in answer.remedies:
        changes = ", ".join(f"`{setting(patch).replace('`', '')}`" for patch in remedy.patches)
        lines.append(f"- {_cell(remedy.summary)} ({changes})")
    if answer.no_remedy:
        lines += ["", f"No remedy: {_cell(answer.no_remedy)}"]
    estimate = answer.estimate
    lines += ["", f"Plan `{estimate.plan_digest}`, computed with {_cell(revision(estimate.revision))}.", ""]
    return "\n".join(lines)


def _append(out: Output, text: str) -> None:
    name = os.environ.get(SUMMARY)
    if not name:
        return
    try:
        with Path(name).open("a", encoding="utf-8") as stream:
            stream.write(f"{text}\n")
    except OSError as error:
        out.say(f"cannot write the step's summary: {error.strerror}")


def _command(kind: str, text: str, position: Position, title: str) -> str:
    at = ""
    if position.file != STDIN:
        at = f"file={_escape(position.file, _PROPERTY)},line={position.line},col={position.column},"
    return f"::{kind} {at}title={_escape(title, _PROPERTY)}::{_escape(text, _DATA)}"


def _escape(text: str, letters: dict[str, str]) -> str:
    return "".join(letters.get(letter, letter) for letter in text)


def _cell(text: str) -> str:
    """Escape text for a cell of a table."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return plain.replace("`", "\\`").replace("*", "\\*")
