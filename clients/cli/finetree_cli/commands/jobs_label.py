# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs label`: labels, annotations and the display name of a job, changed or removed by key."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import LabelChange


@click.command(
    "label",
    cls=Command,
    examples=(
        "finetree jobs label JOB team=search trial-",
        "finetree jobs label JOB --annotations reviewed-by=ada",
        "finetree jobs label JOB --display-name 'ranker, second data'",
    ),
)
@click.argument("job")
@click.argument("changes", nargs=-1, type=LabelChange(), metavar="[KEY=VALUE | KEY-]...")
@click.option(
    "--annotations", is_flag=True, help="Change annotations, which jobs are not listed by, in place of labels."
)
@click.option("--display-name", metavar="TEXT", help='Name for people; "" removes it.')
@pass_settings
def label(
    settings: Settings,
    /,
    *,
    job: str,
    changes: tuple[tuple[str, str | None], ...],
    annotations: bool,
    display_name: str | None,
) -> None:
    """Set (KEY=VALUE) or remove (KEY-) labels of a job, in any state; the others stay as they are."""
    from finetree_cli.errors import BadInput

    if not changes and display_name is None:
        raise BadInput("nothing is to be changed", remedy="name a label, as in team=search or team-")
    given = dict(changes)
    if len(given) < len(changes):
        raise BadInput("a key is named twice", remedy="name each key once")
    with settings.client() as client:
        found = client.job(job).update(
            display_name=display_name,
            labels=None if annotations else given,
            annotations=given if annotations else None,
        )
    if settings.out.json:
        settings.out.message(found)
    else:
        for key, value in sorted((found.annotations if annotations else found.labels).items()):
            settings.out.text(f"{key}={value}")
