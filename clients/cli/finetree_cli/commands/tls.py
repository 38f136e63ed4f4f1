# SPDX-License-Identifier: Apache-2.0
"""`finetree tls`: a private certificate authority for services that others reach."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.errors import BadInput
from finetree_cli.options.command import Group, Settings, pass_settings
from finetree_cli.options.types import Duration

if TYPE_CHECKING:
    from finetree_cli.backends.certificates.describe import Described
    from finetree_cli.backends.certificates.folder import Change

DAYS = 365
"""Days that certificates of servers and clients are valid for by default; browsers take at most 398."""
_FOLDER = click.Path(file_okay=False, path_type=Path)
_days = click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=DAYS,
    show_default=True,
    help="Days that certificates of the services and of clients are valid for.",
)


@click.group(
    cls=Group,
    examples=(
        "finetree tls init ./tls --name finetree.example.com --client ci",
        "finetree tls show ./tls",
        "finetree tls renew ./tls --within 720h",
    ),
)
def tls() -> None:
    """Make, renew and show the certificates of a private authority.

    For networks without an authority of their own. Services take the certificate with --tls-cert and --tls-key and read
    it again when it changes; clients trust it with FINETREE_TLS_CA or the profile's tls_ca.
    """


@tls.command(
    "init",
    examples=(
        "finetree tls init ./tls --name finetree.example.com --name 10.0.0.7",
        "finetree tls init ./tls --client ci --client spiffe://example.com/trainer",
    ),
)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--name", "hosts", multiple=True, metavar="HOST", help="Name or IP address of the services; repeatable.")
@click.option(
    "--client", "clients", multiple=True, metavar="NAME", help="Client to make a certificate for; repeatable."
)
@_days
@pass_settings
def init_command(settings: Settings, folder: Path, hosts: tuple[str, ...], clients: tuple[str, ...], days: int) -> None:
    """Make an authority in DIR, a certificate for the services and those for clients.

    What is there already stays: run it again to add a client. Keys can be read by their owner alone. Services need
    server.pem and server.key, clients ca.pem; keep ca.key where nobody else gets at it.
    """
    from finetree_cli.backends.certificates.authority import require_cryptography
    from finetree_cli.backends.certificates.folder import init

    if not hosts and not clients:
        raise BadInput("nothing to make a certificate for", remedy="give --name HOST, --client NAME or both")
    require_cryptography()
    _report(settings, folder, init(folder, hosts, clients, days), verb="made", kept="kept as it was")


@tls.command("renew", examples=("finetree tls renew ./tls", "finetree tls renew ./tls --within 720h --json"))
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option(
    "--client", "clients", multiple=True, metavar="NAME", help="Renew the certificates of these clients alone."
)
@click.option("--within", type=Duration(), help="Renew those alone that expire within this time.")
@_days
@pass_settings
def renew_command(settings: Settings, folder: Path, clients: tuple[str, ...], within: float | None, days: int) -> None:
    """Make new certificates and keys of the same authority, for the same names.

    Running services take them at the next connection, and clients at their next call; streams that are open go on.
    """
    from finetree_cli.backends.certificates.authority import require_cryptography
    from finetree_cli.backends.certificates.folder import renew

    require_cryptography()
    changes = renew(folder, days, within, clients or None)
    _report(settings, folder, changes, verb="renewed", kept="not due")


@tls.command("show", examples=("finetree tls show ./tls", "finetree tls show /etc/finetree/server.pem --json"))
@click.argument("path", metavar="DIR|FILE", type=click.Path(path_type=Path))
@pass_settings
def show_command(settings: Settings, path: Path) -> None:
    """Show who the certificates of a folder or a PEM file are for, by whom, and until when."""
    from finetree_cli.backends.certificates.authority import require_cryptography
    from finetree_cli.backends.certificates.describe import describe

    require_cryptography()
    found, now = describe(path), dt.datetime.now(dt.UTC)
    if settings.out.json:
        settings.out.document({"certificates": [_as_json(each, now) for each in found]})
        return
    rows = [
        [each.file, each.use, each.subject, ", ".join(each.names), each.issuer, _until(each, now)] for each in found
    ]
    settings.out.table(["File", "For", "Subject", "Names", "Issuer", "Valid until"], rows)
    for each in found:
        if each.problem:
            settings.out.say(f"{each.file}: {each.problem}")


def _until(described: "Described", now: dt.datetime) -> str:
    from finetree_cli.backends.certificates.describe import SOON_DAYS

    left, day = described.days_left(now), described.ends.date().isoformat()
    if left < 0:
        return f"{day} (expired)"
    return f"{day} ({left:.0f} days{', renew it' if left < SOON_DAYS else ''})"


def _as_json(described: "Described", now: dt.datetime) -> dict[str, object]:
    return {
        "file": described.file,
        "use": described.use,
        "subject": described.subject,
        "names": list(described.names),
        "issuer": described.issuer,
        "not_before": described.begins.isoformat(),
        "not_after": described.ends.isoformat(),
        "days_left": round(described.days_left(now), 1),
        "sha256": described.fingerprint,
        "problem": described.problem,
    }


def _report(settings: Settings, folder: Path, changes: "Sequence[Change]", *, verb: str, kept: str) -> None:
    if settings.out.json:
        entries = [{"file": str(each.path), verb: each.made} for each in changes]
        settings.out.document({"folder": str(folder), "certificates": entries})
        return
    for each in changes:
        settings.out.text(f"{each.path}: {verb if each.made else kept}")
