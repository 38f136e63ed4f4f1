# SPDX-License-Identifier: Apache-2.0
"""`finetree render`: a plan.json in another format."""

from pathlib import Path

import click

from finetree_cli.options.command import Command, Settings, pass_settings, report_formats


@click.command(
    cls=Command,
    examples=(
        "finetree render plan.json",
        "finetree render plan.json --output sarif",
        "finetree render plan.json --output junit=report.xml,gitlab=gl-code-quality-report.json,text",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@report_formats
@pass_settings
def render(settings: Settings, /, *, file: Path, output: str) -> None:
    """Write a plan.json in another format, as `finetree check` would have written it.

    FILE is what `finetree check --output json=FILE` wrote. Nothing is checked again and no service is asked; exits with
    0 whatever the verdict is.
    """
    from finetree_cli.gate.report import read_report
    from finetree_cli.render.gate.formats import Target, parse_targets, write

    targets = parse_targets("json" if settings.out.json else output)
    settings.out.json = Target("json") in targets
    write(read_report(file), targets, settings.out)
