# SPDX-License-Identifier: Apache-2.0
"""`finetree costs`: what ended jobs have cost."""

from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Day, Label

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import job_pb2

ENDED = ("succeeded", "failed", "cancelled")


@click.command(
    cls=Command,
    examples=(
        "finetree costs --since 2026-11-01",
        "finetree costs --format focus --since 2026-11-01 --until 2026-11-30",
        "finetree costs --label team=search --json | jq '[.jobs[].cost] | add'",
    ),
)
@click.option("--since", type=Day(), metavar="YYYY-MM-DD", help="Only jobs that ended on this day (UTC) or later.")
@click.option("--until", type=Day(), metavar="YYYY-MM-DD", help="Only jobs that ended on this day (UTC) or before.")
@click.option("--label", "labels", type=Label(), multiple=True, metavar="KEY=VALUE", help="Only with this label.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "focus")),
    default="text",
    show_default=True,
    help="focus: CSV as the FinOps Open Cost and Usage Specification (1.0) has it.",
)
@click.option("--account", default="", metavar="ID", help="With focus: the billing account. [default: the project]")
@click.option("--provider", default="finetree", show_default=True, metavar="NAME", help="With focus: whose hardware.")
@pass_settings
def costs(
    settings: Settings,
    /,
    *,
    since: str | None,
    until: str | None,
    labels: tuple[tuple[str, str], ...],
    form: str,
    account: str,
    provider: str,
) -> None:
    """Show what ended jobs have cost: their running time at the price of their estimate.

    A failed or cancelled job has cost too. A job without a price has no cost and is left out, which is said; where
    nothing prices the hardware, `ownership` in the job file does.
    """
    from finetree_cli.render.trainer import focus

    with settings.client() as client:
        found = [job for job in client.list_jobs(states=ENDED, labels=dict(labels)) if _in_period(job, since, until)]
    priced = [job for job in found if focus.ended_with_cost(job)]
    if len(priced) < len(found):
        settings.out.say(f"{len(found) - len(priced)} of {len(found)} ended jobs have no cost")
    if settings.out.json:
        settings.out.document({"jobs": [_document(job) for job in priced]})
    elif form == "focus":
        settings.out.text(focus.render(priced, account=account, provider=provider).removesuffix("\n"))
    elif priced:
        _show(settings, priced)
    else:
        chosen = since or until or labels
        settings.out.text(f"no cost: no job {'of those asked for ' if chosen else ''}has ended with a price")


def _in_period(job: "job_pb2.Job", since: str | None, until: str | None) -> bool:
    day = job.end_time.ToDatetime().date().isoformat()
    return (since is None or day >= since) and (until is None or day <= until)


def _document(job: "job_pb2.Job") -> dict[str, object]:
    from finetree.money import to_float

    expected = job.estimate.cost.amount.expected if job.estimate.HasField("cost") else None
    return {
        "name": job.name,
        "display_name": job.display_name,
        "end_time": job.end_time.ToJsonString(),
        "cost": to_float(job.cost.amount),
        "currency_code": job.cost.amount.currency_code,
        "estimated_cost": expected,
    }


def _show(settings: Settings, jobs: "list[job_pb2.Job]") -> None:
    from finetree_cli.output import short_name
    from finetree_cli.render import units

    rows = [
        (
            short_name(job.name),
            job.display_name,
            job.end_time.ToDatetime().date().isoformat(),
            units.money(job.cost.amount),
            units.expected_money(job.estimate.cost) if job.estimate.HasField("cost") else "unknown",
        )
        for job in jobs
    ]
    settings.out.table(("job", "name", "ended", ">cost", ">estimated"), rows)
