# SPDX-License-Identifier: Apache-2.0
"""Checks for GitHub Actions: workflow commands on stdout, a Markdown table in the step's summary.

The commands and their escapes are those of docs.github.com, "Workflow commands for GitHub Actions", and of the runner's
own escapeData and escapeProperty (actions/toolkit, packages/core/src/command.ts).
"""

import os
from pathlib import Path

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_cli.errors import BadInput
from finetree_cli.jobfile.job import JobFile
from finetree_cli.jobfile.yaml_reader import Place
from finetree_cli.output import Output
from finetree_cli.render.estimator.check import revision, setting, verdict

SUMMARY = "GITHUB_STEP_SUMMARY"
"""Environment variable with the file that a step's summary is appended to."""
STDIN = "<stdin>"
_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}


def show(out: Output, answer: pb.CheckPlanResponse, job: JobFile, *, failed: bool) -> None:
    """An annotation for each limit that does not pass, and the summary."""
    for check in answer.checks:
        if check.verdict == ev.CHECK_VERDICT_PASS:
            continue
        grave = check.verdict == ev.CHECK_VERDICT_FAIL or failed
        place = job.place_of(f"spec.{check.field_path}")
        text = f"{check.help}; passes with {setting(check.fix)}" if check.HasField("fix") else check.help
        title = f"{check.rule_id}: {verdict(check.verdict)}"
        out.text(_command("error" if grave else "warning", text, place, title))
    _append(out, table(answer))


def problems(out: Output, error: BadInput, file: str) -> None:
    """An annotation for each place of a file that is wrong; one for the file where there is none."""
    for problem in error.problems:
        text = f"{problem.field_path}: {problem.message}" if problem.field_path else problem.message
        out.text(_command("error", text, problem.place, error.reason))
    if not error.problems:
        out.text(_command("error", error.message, Place(file, 1, 1), error.reason))


def table(answer: pb.CheckPlanResponse) -> str:
    """The checks as Markdown."""
    lines = [
        f"### finetree check: {verdict(answer.verdict)}",
        "",
        "| Limit | Verdict | Prediction |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{check.rule_id}` | {verdict(check.verdict)} | {_cell(check.help)} |" for check in answer.checks]
    if answer.remedies:
        lines += ["", "Every limit would pass with one of:", ""]
    for remedy in answer.remedies:
        changes = ", ".join(f"`{setting(patch).replace('`', '')}`" for patch in remedy.patches)
        lines.append(f"- {_cell(remedy.summary)} ({changes})")
    if answer.no_remedy:
        lines += ["", f"What would pass: {_cell(answer.no_remedy)}"]
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
        out.say(f"the summary cannot be written: {error.strerror}")


def _command(kind: str, text: str, place: Place, title: str) -> str:
    at = "" if place.file == STDIN else f"file={_escape(place.file, _PROPERTY)},line={place.line},col={place.column},"
    return f"::{kind} {at}title={_escape(title, _PROPERTY)}::{_escape(text, _DATA)}"


def _escape(text: str, letters: dict[str, str]) -> str:
    return "".join(letters.get(letter, letter) for letter in text)


def _cell(text: str) -> str:
    """Text that is no markup in a cell of a table."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return plain.replace("`", "\\`").replace("*", "\\*")
