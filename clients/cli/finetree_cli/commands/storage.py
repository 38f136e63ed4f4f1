# SPDX-License-Identifier: Apache-2.0
"""`finetree storage`: what takes how much room on the trainer's disk, and what retention removes next."""

from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import retention_pb2

    from finetree_cli.output import Output

DAY = 86_400
"""Seconds."""


@click.command(
    cls=Command,
    examples=(
        "finetree storage",
        "finetree storage --all-projects --dry-run",
        "finetree storage --json | jq '.usage[] | {kind, size_bytes}'",
    ),
)
@click.option("--all-projects", is_flag=True, help="Of every project, not only of one's own.")
@click.option("--dry-run", is_flag=True, help="List what the next sweep of retention removes.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most removals to list.")
@pass_settings
def storage(settings: Settings, /, *, all_projects: bool, dry_run: bool, limit: int) -> None:
    """Show what takes how many bytes, by project and kind, with the limits of retention.

    Retention removes at the trainer's start and then every hour, oldest first; never what is pinned or used. Its limits
    are settings of the trainer (`--retention-age`, `--retention-bytes`, `--retention-file`).
    """
    with settings.client() as client:
        found = client.get_storage(all_projects=all_projects, max_removals=limit)
    if settings.out.json:
        settings.out.message(found)
        return
    _show_usage(settings.out, found)
    if dry_run:
        _show_removals(settings.out, found)


def _show_usage(out: "Output", found: "retention_pb2.GetStorageResponse") -> None:
    from finetree_api.trainer.v1 import retention_pb2

    from finetree_cli.render import units

    rows = [
        (
            each.project.rpartition("/")[2] or "(shared)",
            _word(retention_pb2.StorageKind.Name(each.kind), "STORAGE_KIND_"),
            str(each.count),
            units.size(each.size_bytes),
            _age(each.max_age.ToSeconds()) if each.HasField("max_age") else "-",
            units.size(each.max_bytes) if each.max_bytes else "-",
        )
        for each in found.usage
    ]
    out.table(["Project", "Kind", ">Count", ">Size", ">Kept for", ">Kept bytes"], rows)
    removed = f"; the next sweep removes {found.removal_count}, {units.size(found.removal_bytes)}"
    out.say(f"{units.size(found.free_bytes)} are free{removed if found.removal_count else ''}")


def _show_removals(out: "Output", found: "retention_pb2.GetStorageResponse") -> None:
    from finetree_api.trainer.v1 import retention_pb2

    from finetree_cli.render import units

    if not found.removals:
        out.text("nothing would be removed")
        return
    rows = [
        (
            each.name,
            _word(retention_pb2.StorageKind.Name(each.kind), "STORAGE_KIND_"),
            units.size(each.size_bytes),
            units.instant(each.time),
            _word(retention_pb2.RemovalCause.Name(each.cause), "REMOVAL_CAUSE_"),
        )
        for each in found.removals
    ]
    out.table(["Name", "Kind", ">Size", "Since", "Why"], rows)


def _age(seconds: int) -> str:
    from finetree_cli.render import units

    return f"{seconds // DAY} d" if seconds and seconds % DAY == 0 else units.duration(seconds)


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")
