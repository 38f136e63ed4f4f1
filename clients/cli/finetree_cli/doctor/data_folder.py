# SPDX-License-Identifier: Apache-2.0
"""The data folder: who may read it, whether its database is whole, and whether the disk has what that names."""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from finetree_cli.backends.data_folder import backup as program
from finetree_cli.doctor.finding import Finding, Installation, Level
from finetree_cli.errors import CliError, NotAvailable

SUBJECT = "data"
PASSAGE = 0o710
"""Mode of a data folder whose workers run as a user of their own: its group passes through and sees nothing."""
AHEAD = timedelta(minutes=2)
"""How far the newest entry may be ahead of this machine's clock."""
DRAFT_BYTES = 1024**3
"""Half written files of dead workers that are worth a warning."""


def check(installation: Installation) -> Iterator[Finding]:
    """Check the folder without changing it, also while services use it."""
    root = installation.data_dir
    own = root if _has_database(root) else root / "trainer"
    if not _has_database(own):
        text = f"no trainer has used {root} yet"
        yield Finding(SUBJECT, "folder", Level.OK, text, "--data-dir names another folder")
        return
    yield permissions(own)
    try:
        found = program.run("condition", own)
    except NotAvailable:
        text = "the database is not checked: the trainer is not in this environment"
        yield Finding(SUBJECT, "database", Level.WARNING, text, "run finetree doctor where the trainer is installed")
        return
    except CliError as error:
        yield _unchecked(error)
        return
    yield from judged(found, datetime.now(UTC))


def _has_database(folder: Path) -> bool:
    """Whether a trainer has its database here, or the mark of one on a server."""
    return (folder / "trainer.db").is_file() or (folder / "database.json").is_file()


def _unchecked(error: CliError) -> Finding:
    """Judge what kept the database from being looked at."""
    if error.reason == "DATABASE_URL_MISSING":
        remedy = "run finetree doctor with the trainer's environment"
        return Finding(SUBJECT, "database", Level.WARNING, error.message, remedy)
    remedies = {"DATA_DIR_TOO_NEW": "start the release that wrote it"}
    remedy = "see docs/scale.md" if error.reason.startswith("DATABASE_") else "restore a backup"
    return Finding(SUBJECT, "database", Level.PROBLEM, error.message, remedies.get(error.reason, remedy))


def permissions(folder: Path) -> Finding:
    """Judge who owns a folder and who may read it: it holds training data."""
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.getuid():
        text = f"{folder} belongs to user {found.st_uid}, this is user {os.getuid()}: services need their own folder"
        level = Level.WARNING if os.getuid() == 0 else Level.PROBLEM
        return Finding(SUBJECT, "permissions", level, text, f"run the services as user {found.st_uid}")
    if mode == PASSAGE:
        text = f"{folder} is this user's alone; workers, which run as another user, may pass through it"
        return Finding(SUBJECT, "permissions", Level.OK, text)
    if mode & 0o077:
        text = f"{folder} has mode {mode:03o}: others on this machine can look into it"
        return Finding(SUBJECT, "permissions", Level.WARNING, text, f"chmod 700 {folder}")
    return Finding(SUBJECT, "permissions", Level.OK, f"{folder} is this user's alone")


def judged(found: dict[str, Any], now: datetime) -> Iterator[Finding]:
    """Judge what the trainer's program found (finetree_trainer.backup.condition)."""
    if found["unfinished_restore"]:
        text = "a restore into this folder was cut off; no trainer starts on it"
        yield Finding(SUBJECT, "restore", Level.PROBLEM, text, "run finetree backup restore into it again")
    if found["database"] != "ok":
        text = f"the database is damaged: {found['database'][:120]}"
        yield Finding(
            SUBJECT, "database", Level.PROBLEM, text, "stop the trainer and restore a backup into a new folder"
        )
        return
    use = "a trainer uses it" if found["in_use"] else "no trainer uses it"
    if found.get("on_server"):
        text = f"the database is on PostgreSQL {found['server']}: {found['jobs']} jobs; {use}"
        yield Finding(SUBJECT, "database", Level.OK, text)
        yield _schema(found)
        return
    yield Finding(SUBJECT, "database", Level.OK, f"the database is whole: {found['jobs']} jobs; {use}")
    yield _schema(found)
    if found["torn"]:
        text = f"the log of job {found['torn'][0]} has a gap"
        yield Finding(SUBJECT, "logs", Level.PROBLEM, text, "restore a backup into a new folder")
    if found["missing_count"]:
        names = ", ".join(found["missing"])
        text = f"{found['missing_count']} things that the database names are not on the disk: {names}"
        yield Finding(SUBJECT, "files", Level.PROBLEM, text, "restore a backup; deleting the jobs forgets them")
    if found["draft_bytes"] > DRAFT_BYTES:
        text = (
            f"killed workers have left {found['drafts']} half written files, {found['draft_bytes'] / 1024**3:.1f} GiB"
        )
        yield Finding(SUBJECT, "drafts", Level.WARNING, text, "restart the trainer, which removes them")
    if found["update_time"] and datetime.fromisoformat(found["update_time"]) > now + AHEAD:
        text = f"the newest entry is of {found['update_time']}, which this machine's clock has not reached"
        yield Finding(SUBJECT, "clock", Level.PROBLEM, text, "set the clock; timedatectl shows whether it follows NTP")


def _schema(found: dict[str, Any]) -> Finding:
    version, known = found["schema_version"], found["known_schema_version"]
    if version < known:
        text = f"its tables have version {version}; this release makes them {known} at its next start"
        return Finding(
            SUBJECT, "schema", Level.WARNING, text, "make a backup before: older releases cannot read it then"
        )
    return Finding(SUBJECT, "schema", Level.OK, f"its tables have version {version}, that of this release")
