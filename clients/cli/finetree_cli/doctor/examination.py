# SPDX-License-Identifier: Apache-2.0
"""Every check in the order of the report, each apart from the others: one that fails is a finding too."""

import os
from collections.abc import Iterator

from finetree_cli.doctor import backups, credentials, data_folder, gpus, machine, network, packages, services
from finetree_cli.doctor.finding import Check, Finding, Installation, Level
from finetree_cli.errors import CliError

CHECKS: dict[str, Check] = {
    packages.SUBJECT: packages.check,
    gpus.SUBJECT: gpus.check,
    machine.SUBJECT: machine.check,
    data_folder.SUBJECT: data_folder.check,
    backups.SUBJECT: backups.check,
    services.SUBJECT: services.check,
    credentials.SUBJECT: credentials.check,
    network.SUBJECT: network.check,
}
"""Checks by subject."""


def examine(installation: Installation, subjects: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Yield what every check finds, or those of some subjects."""
    for subject, check in CHECKS.items():
        if subjects and subject not in subjects:
            continue
        try:
            yield from check(installation)
        except CliError as error:
            yield Finding(subject, "check", Level.PROBLEM, error.message, error.remedy)
        except Exception as error:
            # An installation is checked because something is broken.
            if os.environ.get("FINETREE_DEBUG") == "1":
                raise
            text = f"it could not be checked: {type(error).__name__}: {error}"
            yield Finding(subject, "check", Level.PROBLEM, text, "FINETREE_DEBUG=1 finetree doctor shows where")


def worst(findings: list[Finding]) -> Level:
    """The worst level of some findings."""
    return max((finding.level for finding in findings), default=Level.OK)
