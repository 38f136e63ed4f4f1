# SPDX-License-Identifier: Apache-2.0
"""The formats by name, and where each goes: a file, or the standard output."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click

from finetree_cli.errors import BadInput
from finetree_cli.gate.report import Report
from finetree_cli.output import Output

FORMATS = ("text", "markdown", "json", "junit", "sarif", "github", "gitlab")
"""json is plan.json itself; github is annotations, and the Markdown in the step's summary."""
SUMMARY = "GITHUB_STEP_SUMMARY"
"""Environment variable with the file of the step's summary."""
SUMMARY_LENGTH = 250_000
"""Characters of a summary: at most four bytes each, and GitHub takes 1 MiB for a step."""


@dataclass(frozen=True, slots=True)
class Target:
    """A format and where it goes."""

    format: str
    file: Path | None = None
    """None: the standard output."""


def parse_targets(value: str) -> tuple[Target, ...]:
    """Read the value of an --output option: "text", or "text,json=plan.json,sarif=finetree.sarif".

    Raises:
        BadInput: A format is unknown, or two go to the standard output or to the same file.
    """
    found = []
    for item in value.split(","):
        name, is_file, file = item.strip().partition("=")
        if name not in FORMATS:
            raise BadInput(f"--output: {name or item!r} is no format", remedy=f"one of {', '.join(FORMATS)}")
        if is_file and not file:
            raise BadInput(f"--output: {name}= names no file", remedy=f"{name}=FILE, or {name} for the standard output")
        found.append(Target(name, Path(file) if is_file else None))
    bare = sorted(target.format for target in found if target.file is None)
    files = [target.file for target in found if target.file is not None]
    # Annotations are read from the log, whatever else it holds.
    if len(set(files)) < len(files) or (len(bare) > 1 and bare != ["github", "text"]):
        raise BadInput("--output: two formats go to the same place", remedy="give all but one a file: json=plan.json")
    return tuple(found)


def render(report: Report, name: str) -> str:
    """Format the report; `name` is one of FORMATS."""
    if name == "json":
        return report.to_text()
    module = import_module(f"finetree_cli.render.gate.{name}")
    text: str = module.render(report)
    return text


def write(report: Report, targets: Sequence[Target], out: Output) -> None:
    """Write the report in every format to its place.

    Raises:
        BadInput: A file cannot be written.
    """
    for target in targets:
        text = render(report, target.format)
        if target.file is not None:
            _save(target.file, text)
        elif target.format in ("text", "markdown"):
            out.text(text.removesuffix("\n"))
        else:
            click.echo(text, nl=False)  # programs read it: to the byte
        if target.format == "github":
            _append_summary(report, out)


def _save(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}", reason="OUTPUT_FILE_UNWRITABLE") from error


def _append_summary(report: Report, out: Output) -> None:
    name = os.environ.get(SUMMARY)
    if not name:
        return
    from finetree_cli.render.gate import markdown

    try:
        with Path(name).open("a", encoding="utf-8") as stream:
            stream.write(markdown.render(report, max_length=SUMMARY_LENGTH))
    except OSError as error:
        out.say(f"cannot write the step's summary: {error.strerror}")
