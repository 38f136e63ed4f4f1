# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs move`: a waiting job gets another place in the queue."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(
    "move",
    cls=Command,
    examples=("finetree jobs move JOB --first", "finetree jobs move JOB --before OTHER --json | jq .queue_position"),
)
@click.argument("job")
@click.option("--first", is_flag=True, help="Before every job that waits for the same device.")
@click.option("--before", default="", metavar="JOB", help="Directly before this job; its priority is taken over.")
@pass_settings
def move(settings: Settings, /, *, job: str, first: bool, before: str) -> None:
    """Give a waiting job another place in the queue, for good; running jobs are left alone."""
    from finetree_cli.render.trainer.jobs import show_place

    if first == bool(before):
        raise click.UsageError("say where it goes: --first, or --before and a job")
    with settings.client() as client:
        found = client.job(job).move(before=before)
    if settings.out.json:
        settings.out.message(found)
    else:
        show_place(settings.out, found)
