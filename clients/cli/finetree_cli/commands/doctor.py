# SPDX-License-Identifier: Apache-2.0
"""`finetree doctor`: what is wrong with an installation, and what to type."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_cli.doctor.finding import Finding

SUBJECTS = ("packages", "gpu", "machine", "data", "backups", "services", "credentials", "network")


@click.command(
    cls=Command,
    examples=(
        "finetree doctor",
        "finetree doctor --offline --only packages --only gpu",
        "finetree doctor --json | jq '.findings[] | select(.level != \"ok\")'",
    ),
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data folder of `finetree up`, or of a trainer. [default: that of `finetree up`]",
)
@click.option("--only", multiple=True, type=click.Choice(SUBJECTS), help="Check these subjects alone.")
@click.option("--offline", is_flag=True, help="Ask nothing outside of this machine but the services.")
@click.option("--strict", is_flag=True, help="Exit with 3 for warnings too.")
@click.option(
    "--access-dir", type=click.Path(file_okay=False, path_type=Path), help="Check the access file of this folder too."
)
@click.option(
    "--certificate",
    "certificates",
    multiple=True,
    metavar="DIR|FILE",
    type=click.Path(path_type=Path),
    help="Check certificates (PEM, or the folder of `finetree tls init`) and their keys too; repeatable.",
)
@click.option(
    "--backups", type=click.Path(file_okay=False, path_type=Path), help="Check the newest backup of this folder too."
)
@pass_settings
def doctor(
    settings: Settings,
    /,
    *,
    data_dir: Path | None,
    only: tuple[str, ...],
    offline: bool,
    strict: bool,
    access_dir: Path | None,
    certificates: tuple[Path, ...],
    backups: Path | None,
) -> None:
    """Check this installation, and say what to do where something is wrong.

    Looks at packages and torch, GPUs and driver, disk and memory, the data folder and its database, the services,
    certificates and files with secrets, the model hub and the clock. Works while services are down, and changes
    nothing. Exit code 3 where there is a problem.
    """
    from finetree_cli.backends.suite import default_data_dir
    from finetree_cli.doctor.examination import examine, worst
    from finetree_cli.doctor.finding import Installation, Level
    from finetree_cli.errors import GateFailed

    installation = Installation(data_dir or default_data_dir(), settings, offline, certificates, access_dir, backups)
    found = []
    for finding in examine(installation, only):
        found.append(finding)
        if not settings.out.json:
            _show(settings, finding)
    level = worst(found)
    if settings.out.json:
        listed = [
            {
                "subject": each.subject,
                "name": each.name,
                "level": each.level.word,
                "found": each.found,
                "remedy": each.remedy,
            }
            for each in found
        ]
        settings.out.document({"level": level.word, "findings": listed})
    if level is Level.PROBLEM or (strict and level is Level.WARNING):
        counts = [sum(each.level is kind for each in found) for kind in (Level.PROBLEM, Level.WARNING)]
        raise GateFailed(
            f"{counts[0]} problems and {counts[1]} warnings",
            reason="INSTALLATION_UNSOUND",
            reported=settings.out.json,
        )


def _show(settings: Settings, finding: "Finding") -> None:
    settings.out.text(f"{finding.level.word:<8} {finding.subject} {finding.name}: {finding.found}")
    if finding.remedy and finding.level:
        settings.out.text(f"{'':<8} -> {finding.remedy}")
