# SPDX-License-Identifier: Apache-2.0
"""The folder of backups: whether there are any, and how old the newest is."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from finetree_cli.backends.data_folder import backup as program
from finetree_cli.doctor.finding import Finding, Installation, Level
from finetree_cli.render import units

SUBJECT = "backups"
OLD = timedelta(hours=26)
"""Age from which on a daily backup has failed."""


def check(installation: Installation) -> Iterator[Finding]:
    """Look at the manifests of the folder that was named; `finetree backup verify` reads everything."""
    if installation.backups is None:
        return
    yield from judged(program.run("list", installation.backups)["backups"], datetime.now(UTC))


def judged(found: list[dict[str, Any]], now: datetime) -> Iterator[Finding]:
    """Judge the backups of a folder, oldest first."""
    damaged = [each["id"] for each in found if "error" in each]
    if damaged:
        text = f"the manifests of {len(damaged)} backups are damaged, the first {damaged[0]}"
        yield Finding(SUBJECT, "manifests", Level.PROBLEM, text, "finetree backup verify names what is damaged")
    whole = [each for each in found if "error" not in each]
    if not whole:
        yield Finding(SUBJECT, "newest", Level.PROBLEM, "there is no backup", "finetree backup create makes one")
        return
    age = now - datetime.fromisoformat(whole[-1]["time"])
    text = f"the newest of {len(whole)} is {units.duration(age.total_seconds())} old"
    if age > OLD:
        yield Finding(SUBJECT, "newest", Level.WARNING, text, "look why finetree backup create did not run")
    else:
        yield Finding(SUBJECT, "newest", Level.OK, text)
