# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs logs` and `finetree jobs events`: the worker's text, and the newest events of a job."""

from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings

if TYPE_CHECKING:
    from finetree import Job


@click.command(
    "logs",
    cls=Command,
    examples=(
        "finetree jobs logs JOB",
        "finetree jobs logs JOB --follow",
        "finetree jobs logs JOB --attempt 1 --tail 200",
        "finetree jobs logs JOB --list",
    ),
)
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended, with later attempts too.")
@click.option("--tail", type=click.IntRange(0, 1_000_000), metavar="N", help="Only the newest N lines. [default: all]")
@click.option(
    "--attempt", type=click.IntRange(1, 1_000_000), metavar="N", help="Only this attempt. [default: the newest]"
)
@click.option("--list", "listed", is_flag=True, help="Show which logs there are, and their sizes.")
@pass_settings
def logs(settings: Settings, /, *, job: str, follow: bool, tail: int | None, attempt: int | None, listed: bool) -> None:
    """Print the log of a job's worker: a line for each event, and what libraries said, with stack traces.

    It is still there when the job has ended. Of a log over 8 MiB the first and the newest lines are kept. With --json a
    line is an object.
    """
    with settings.client() as client:
        handle = client.job(job)
        if listed:
            _list(settings, handle)
        else:
            _print(settings, handle, follow=follow, tail=tail, attempt=attempt)


def _print(settings: Settings, job: "Job", *, follow: bool, tail: int | None, attempt: int | None) -> None:
    from finetree_cli.errors import StillRunning

    shown, end = attempt or 0, None
    try:
        pieces = job.read_log(
            attempt=attempt or 0, last_lines=tail, follow=follow, last_attempt=(attempt or 0) if follow else 0
        )
        for piece in pieces:
            if shown and piece.attempt != shown:
                settings.out.say(f"attempt {piece.attempt}")
            elif end is not None and piece.offset > end:
                settings.out.say(f"{piece.offset - end} bytes are no longer kept")
            shown, end = piece.attempt, piece.next_offset
            for line in piece.text.splitlines():
                if settings.out.json:
                    settings.out.line({"attempt": piece.attempt, "text": line})
                else:
                    settings.out.text(line)
    except KeyboardInterrupt:
        raise StillRunning("detached; the job still runs", remedy="", reason="DETACHED") from None


def _list(settings: Settings, job: "Job") -> None:
    from finetree_cli.output import as_dict
    from finetree_cli.render import units

    found = job.list_logs()
    if settings.out.json:
        settings.out.document({"logs": [as_dict(log) for log in found]})
        return
    rows = [
        [
            str(log.attempt),
            units.size(log.size_bytes),
            units.size(log.kept_bytes),
            units.instant(log.start_time),
            units.instant(log.end_time) if log.HasField("end_time") else "",
        ]
        for log in found
    ]
    settings.out.table([">Attempt", ">Size", ">Kept", "Began", "Ended"], rows)


@click.command(
    "events", cls=Command, examples=("finetree jobs events JOB", "finetree jobs events JOB --last 20 --all --json")
)
@click.argument("job")
@click.option("--last", type=click.IntRange(1, 1000), default=200, show_default=True, help="Largest number of events.")
@click.option("--all", "everything", is_flag=True, help="Every event, not only log lines, alerts and states.")
@pass_settings
def events(settings: Settings, job: str, last: int, everything: bool) -> None:
    """Print the newest events of a job, oldest first; with --json, one event a line."""
    from finetree.display.events import event_line

    from finetree_cli.output import as_dict

    kinds = () if everything else ("log_line", "alert", "state_changed", "terminal")
    with settings.client() as client:
        found = client.job(job).list_events(last=last, kinds=kinds)
    for event in found:
        if settings.out.json:
            settings.out.line(as_dict(event))
        else:
            line = event.log_line.text if event.HasField("log_line") else event_line(event) or event.message
            settings.out.text(f"{event.event_time.ToJsonString()}  {line}")
