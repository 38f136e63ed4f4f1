# SPDX-License-Identifier: Apache-2.0
"""`finetree top`: what runs now, what waits, and how far it is."""

from pathlib import Path

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(
    cls=Command,
    examples=(
        "finetree top",
        "finetree top --once",
        "finetree top --json | jq '.jobs[] | {name, progress}'",
        "finetree top --data-dir ~/.local/share/finetree",
    ),
)
@click.option("--once", is_flag=True, help="Print it once and exit; so does a pipe.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Read what is stored in the data folder of `finetree up` or of a trainer, also of one that is down.",
)
@pass_settings
def top(settings: Settings, once: bool, data_dir: Path | None) -> None:
    """Show devices, running and waiting jobs, their progress, speed and remaining time, and the curves of their losses.

    It changes as the trainer's events come, until Ctrl-C. With --json it is one object, and the command exits. With
    --data-dir no service is asked: the folder is read, and nothing in it is changed, also while a service uses it; what
    is shown is what was last stored.
    """
    from finetree_cli.backends.overview import live_overview, stored_overview
    from finetree_cli.render.trainer.overview import document, show_overview, watch_overview

    if data_dir is not None:
        found = stored_overview(data_dir)
    else:
        with settings.client() as client:
            found = live_overview(client)
            if not (once or settings.out.json) and settings.out.console().is_terminal:
                watch_overview(settings.out, client, found)
                return
    if settings.out.json:
        settings.out.document(document(found))
    else:
        show_overview(settings.out, found)
