# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs watch`: a job until its end, or all jobs of the project."""

from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration, Label

if TYPE_CHECKING:
    from finetree import Client

LEVELS = ("debug", "info", "warning", "error")
OF_ONE, OF_ALL = ("after_seq",), ("labels", "kinds", "level", "cursor", "from_start")
"""Options that go with a job, and those that go without."""


@click.command(
    "watch",
    cls=Command,
    examples=(
        "finetree jobs watch JOB",
        "finetree jobs watch JOB --after-seq 120 --timeout 10m --json | jq .seq",
        "finetree jobs watch --label team=search",
        "finetree jobs watch --kind terminal --json | jq -r '[.job, .state] | @tsv'",
    ),
)
@click.argument("job", required=False)
@click.option("--after-seq", type=click.IntRange(0), default=0, help="Of a job: begin after this event. [default: 0]")
@click.option("--label", "labels", type=Label(), multiple=True, metavar="KEY=VALUE", help="Of all: with this label.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="KIND",
    help="Of all: events of this kind, such as eval_metrics; may be repeated. "
    "[default: state_changed, artifact_ready, alert, terminal]",
)
@click.option("--level", type=click.Choice(LEVELS), help="Of all: events at least as important.")
@click.option("--cursor", default="", help="Of all: begin behind this place, from an earlier watch.")
@click.option("--from-start", is_flag=True, help="Of all: begin with the oldest change that is kept. [default: now]")
@click.option("--timeout", type=Duration(), help="Stop watching after this time; jobs still run.")
@click.pass_context
@pass_settings
def watch(
    settings: Settings,
    context: click.Context,
    /,
    *,
    job: str | None,
    after_seq: int,
    labels: tuple[tuple[str, str], ...],
    kinds: tuple[str, ...],
    level: str | None,
    cursor: str,
    from_start: bool,
    timeout: float | None,
) -> None:
    """Follow a job until its end, or, without a name, all jobs of the project until Ctrl-C or the timeout.

    Every event is shown once, also after a broken connection or a restart of the trainer. On a terminal a job has a
    curve of its losses, of training and evaluation, above the bar. Of all jobs each change is a line; with --json it is
    an object with the event's fields and its `cursor`, behind which --cursor goes on again.
    """
    _refuse_strays(context, OF_ALL if job is not None else OF_ONE, job)
    if cursor and from_start:
        raise click.UsageError("--cursor and --from-start are two places to begin at: give one")
    with settings.client() as client:
        if job is not None:
            _watch_one(settings, client, job, after_seq=after_seq, timeout=timeout)
            return
        from finetree_cli.backends.project_events import project_events
        from finetree_cli.render.trainer.changes import ChangeLines

        lines = ChangeLines(settings.out, client)
        reached = cursor
        gap = "changes were removed with a job that was deleted; what follows comes"
        try:
            for event, place in project_events(
                client,
                lambda: settings.out.say(gap),
                cursor=cursor,
                now=not (cursor or from_start),
                kinds=kinds,
                min_level=level or 0,
                labels=dict(labels),
                timeout=timeout,
            ):
                lines.show(event, place)
                reached = place
        finally:
            if reached and not settings.out.json:
                settings.out.say(f"`finetree jobs watch --cursor {reached}` goes on from here")


def _refuse_strays(context: click.Context, strays: tuple[str, ...], job: str | None) -> None:
    given = [
        parameter
        for parameter in context.command.params
        if parameter.name in strays
        and context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        subject = "all jobs: leave JOB out" if job is not None else "one job: name it"
        raise click.UsageError(f"{given[0].opts[0]} is for watching {subject}, or leave the option out")


def _watch_one(settings: Settings, client: "Client", job: str, *, after_seq: int, timeout: float | None) -> None:
    from finetree_cli.follow import follow
    from finetree_cli.render.trainer.jobs import show_end

    handle = client.job(job)
    terminal = follow(settings, handle, timeout=timeout, after_seq=after_seq)
    if not settings.out.json:
        show_end(settings.out, terminal.summary, handle.artifacts())
