# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs delete`: jobs with everything that they made, by name or by age."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.trainer.v1 import job_pb2

ENDED = ("succeeded", "failed", "cancelled")
"""States of jobs that a selection takes."""


@click.command(
    "delete",
    cls=Command,
    examples=(
        "finetree jobs delete JOB",
        "finetree jobs delete --failed --older-than 30d --dry-run",
        "finetree jobs delete --older-than 90d --yes --json | jq .freed_bytes",
    ),
)
@click.argument("job_names", metavar="[JOB]...", nargs=-1)
@click.option("--older-than", type=Duration(), help="Jobs that ended longer ago, such as 30d.")
@click.option("--failed", is_flag=True, help="Only jobs that failed.")
@click.option("--force", is_flag=True, help="Cancel a job that has not ended; delete pinned checkpoints too.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_settings
def delete(
    settings: Settings,
    /,
    *,
    job_names: tuple[str, ...],
    older_than: float | None,
    failed: bool,
    force: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete jobs with their events, logs, checkpoints and artifacts. It cannot be undone.

    A job that has not ended is refused without --force, and so is one that another job starts from, serves or exports.
    Each job is deleted or refused for itself; the exit code is 4 where one was refused.
    """
    from finetree import FinetreeError

    from finetree_cli.errors import BadInput, JobFailed
    from finetree_cli.render import units

    selects = older_than is not None or failed
    if bool(job_names) == selects:
        raise BadInput(
            "name jobs, or select them", remedy="give either job names, or --older-than and --failed, and not both"
        )
    deleted: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    with settings.client() as client:
        names = list(job_names) or _selected(client, older_than, failed=failed)
        if names and not dry_run and not yes:
            _confirm(settings, names)
        for name in names:
            handle = client.job(name)
            try:
                freed = handle.delete(force=force, validate_only=dry_run)
            except FinetreeError as error:
                if error.code not in ("NOT_FOUND", "FAILED_PRECONDITION") or len(job_names) == 1:
                    raise
                refused.append({"name": handle.name, "reason": error.reason, "message": error.message})
                settings.out.say(f"not deleted: {error.message}")
                continue
            deleted.append({"name": handle.name, "freed_bytes": freed})
            if not settings.out.json:
                word = "would be deleted" if dry_run else "deleted"
                settings.out.text(f"{handle.name}  {units.size(freed)}  {word}")
    total = sum(each["freed_bytes"] for each in deleted)
    if settings.out.json:
        settings.out.document({"deleted": deleted, "refused": refused, "freed_bytes": total, "dry_run": dry_run})
    elif not names:
        settings.out.say("no job is selected")
    else:
        settings.out.say(f"{units.size(total)} {'would be' if dry_run else 'are'} free")
    if refused:
        text = f"{len(refused)} of {len(names)} jobs were not deleted"
        raise JobFailed(text, reason=refused[0]["reason"], reported=settings.out.json)


def _selected(client: "Client", older_than: float | None, *, failed: bool) -> list[str]:
    """Names of ended jobs of the project, oldest first, as the options select them."""
    found = list(client.list_jobs(states=("failed",) if failed else ENDED, page_size=1000))
    if older_than is not None:
        limit = datetime.now(UTC) - timedelta(seconds=older_than)
        found = [job for job in found if _ended(job) < limit]
    return [job.name for job in reversed(found)]


def _ended(job: "job_pb2.Job") -> datetime:
    return job.end_time.ToDatetime(tzinfo=UTC)


def _confirm(settings: Settings, names: list[str]) -> None:
    import sys

    from finetree_cli.errors import BadInput

    count = f"{len(names)} job{'s' if len(names) > 1 else ''}"
    if settings.out.json or not sys.stdin.isatty():
        raise BadInput(f"{count} would be deleted, and nobody can be asked", remedy="give --yes or --dry-run")
    for name in names:
        settings.out.say(name)
    if not click.confirm(f"Delete {count} for good?", err=True):
        raise click.Abort
