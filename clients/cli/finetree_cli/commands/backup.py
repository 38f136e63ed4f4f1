# SPDX-License-Identifier: Apache-2.0
"""`finetree backup`: back up and restore the services' folders, while they run."""

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from finetree_cli.options.command import Group, Settings, pass_settings

_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
_ESTIMATOR = click.option(
    "--estimator-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The estimator's --state-dir, where it is not `estimator` in the data folder.",
)


class Moment(click.ParamType[datetime]):
    """A time as ISO 8601: 2026-11-28T10:00, with an offset or as this machine's time."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time with its offset."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value).astimezone()
        except ValueError:
            self.fail(f"{value!r} is no time such as 2026-11-28T10:00 or 2026-11-28T10:00Z", param, ctx)


@click.group(
    cls=Group,
    examples=(
        "finetree backup create /mnt/backups",
        "finetree backup verify /mnt/backups",
        "finetree backup restore /mnt/backups --to ./restored",
    ),
)
def backup() -> None:
    """Back up the services' folders while they run, check backups, and restore them.

    One folder keeps many backups; each adds only what is new, and is whole or does not count. Access files,
    certificates and settings are not in it.
    """


@backup.command(
    examples=(
        "finetree backup create /mnt/backups",
        "finetree backup create /mnt/backups --data-dir ./data --without-models --json",
    )
)
@_FOLDER
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data folder of `finetree up`, or the --data-dir of a trainer. [default: that of `finetree up`]",
)
@_ESTIMATOR
@click.option(
    "--without-models", is_flag=True, help="Leave base models out: a hub, or whoever put them there, has them."
)
@pass_settings
def create(
    settings: Settings, /, *, folder: Path, data_dir: Path | None, estimator_dir: Path | None, without_models: bool
) -> None:
    """Back up the trainer's and the estimator's folders, whether the services run or not.

    The database is copied as of one moment, then every file that it names: datasets, checkpoints, artifacts, logs and
    base models.
    """
    from finetree_cli.backends.data_folder import backup as program
    from finetree_cli.backends.suite import default_data_dir
    from finetree_cli.render import units
    from finetree_cli.render.transfer import transfer

    flags = ["--data-dir", str(data_dir or default_data_dir()), *_estimator(estimator_dir)]
    with transfer(settings.out, "backing up") as on_progress:
        found = program.run("create", folder, [*flags, *["--without-models"] * without_models], on_progress)
    if settings.out.json:
        settings.out.document(found)
        return
    settings.out.text(found["id"])
    new = f"{units.size(found['size_bytes'])} in {found['files']} files, {units.size(found['written_bytes'])} of it new"
    settings.out.say(f"{new}; {found['jobs']} jobs, {found['live_jobs']} of which had not ended")
    _say_missing(settings, found)


@backup.command("list", examples=("finetree backup list /mnt/backups", "finetree backup list /mnt/backups --json"))
@_FOLDER
@pass_settings
def list_backups(settings: Settings, folder: Path) -> None:
    """List the backups of a folder, oldest first."""
    from finetree_cli.backends.data_folder import backup as program
    from finetree_cli.render import units

    found = program.run("list", folder)
    if settings.out.json:
        settings.out.document(found)
        return
    rows = [
        (
            each["id"],
            each["time"],
            str(each["jobs"]),
            str(each["files"]),
            units.size(each["size_bytes"]),
            each["version"],
        )
        if "error" not in each
        else (each["id"], each["error"], "", "", "", "")
        for each in found["backups"]
    ]
    settings.out.table(["Backup", "Time", ">Jobs", ">Files", ">Size", "Version"], rows)


@backup.command(examples=("finetree backup verify /mnt/backups", "finetree backup verify /mnt/backups --backup ID"))
@_FOLDER
@click.option("--backup", "chosen", default="", metavar="ID", help="One backup. [default: all]")
@pass_settings
def verify(settings: Settings, folder: Path, chosen: str) -> None:
    """Read everything and compare it with its hashes; exit code 3 where something is damaged."""
    from finetree_cli.backends.data_folder import backup as program
    from finetree_cli.errors import GateFailed
    from finetree_cli.render import units
    from finetree_cli.render.transfer import transfer

    with transfer(settings.out, "verifying") as on_progress:
        found = program.run("verify", folder, ["--backup", chosen] if chosen else [], on_progress)
    damaged: dict[str, list[str]] = found["damaged"]
    if settings.out.json:
        settings.out.document(found)
    else:
        for each in found["backups"]:
            settings.out.text(f"{each}  {'damaged' if each in damaged else 'whole'}")
            for text in damaged.get(each, ()):
                settings.out.bullet(text)
        settings.out.say(f"{found['pieces']} pieces, {units.size(found['size_bytes'])}")
    if damaged:
        raise GateFailed(
            f"{len(damaged)} of {len(found['backups'])} backups are damaged",
            remedy="restore from one that is whole; delete the damaged pieces and make another backup",
            reason="BACKUP_DAMAGED",
            reported=settings.out.json,
        )


@backup.command(
    examples=(
        "finetree backup restore /mnt/backups --to ./restored",
        "finetree backup restore /mnt/backups --to ./restored --at 2026-11-28T10:00",
    )
)
@_FOLDER
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), required=True, help="Data folder, empty or new."
)
@click.option("--backup", "chosen", default="", metavar="ID", help="Which one. [default: the newest]")
@click.option("--at", type=Moment(), help="The newest that is not after this time.")
@_ESTIMATOR
@pass_settings
def restore(
    settings: Settings, /, *, folder: Path, to: Path, chosen: str, at: datetime | None, estimator_dir: Path | None
) -> None:
    """Put a backup into an empty folder, each file checked.

    What happened after the backup is lost. Watchers whose cursor is from before are refused with LOG_RESET and read
    from the beginning; jobs that had not ended go on from their newest checkpoint when a trainer starts on the folder.
    Stop the former service first: its workers are sent away, but not from another machine.
    """
    from finetree_cli.backends.data_folder import backup as program
    from finetree_cli.errors import BadInput
    from finetree_cli.render import units
    from finetree_cli.render.transfer import transfer

    if chosen and at is not None:
        raise BadInput("--backup and --at both choose a backup", remedy="give one of them")
    flags = ["--to", str(to), *_estimator(estimator_dir), *(["--backup", chosen] if chosen else [])]
    with transfer(settings.out, "restoring") as on_progress:
        found = program.run("restore", folder, [*flags, *(["--at", at.isoformat()] if at else [])], on_progress)
    if settings.out.json:
        settings.out.document(found)
        return
    for part, place in found["folders"].items():
        settings.out.text(f"{part}  {place}")
    settings.out.say(f"backup {found['id']} of {found['time']}: {units.size(found['size_bytes'])}")
    for part in found["left_out"]:
        settings.out.say(f"the {part}'s folder is in the backup and not restored: name one with --{part}-dir")
    if found["live"]:
        settings.out.say(f"{len(found['live'])} jobs had not ended; they go on when a trainer starts on the folder")
    _say_missing(settings, found)


@backup.command(examples=("finetree backup prune /mnt/backups --keep 30",))
@_FOLDER
@click.option("--keep", type=click.IntRange(1), required=True, help="How many of the newest stay.")
@pass_settings
def prune(settings: Settings, folder: Path, keep: int) -> None:
    """Remove all but the newest backups, and what only those had."""
    from finetree_cli.backends.data_folder import backup as program
    from finetree_cli.render import units

    found = program.run("prune", folder, ["--keep", str(keep)])
    if settings.out.json:
        settings.out.document(found)
        return
    for each in found["removed"]:
        settings.out.text(each)
    settings.out.say(f"{units.size(found['freed_bytes'])} are free again")


def _estimator(folder: Path | None) -> list[str]:
    return ["--estimator-dir", str(folder)] if folder is not None else []


def _say_missing(settings: Settings, found: dict[str, Any]) -> None:
    """Name what the database names and the disk did not have: the service lacks it too."""
    for path in found["missing"]:
        settings.out.say(f"not on the trainer's disk, so not in the backup: {path}")
