# SPDX-License-Identifier: Apache-2.0
"""`finetree tokens`: who may call the services of an installation."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finetree_cli.options.command import Group, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_cli.output import Output

Function = TypeVar("Function", bound=Callable[..., Any])
ROLES = ("estimate", "read", "train", "admin")
KINDS = ("oidc-subject", "oidc-group", "certificate")

_access_dir = click.option(
    "--access-dir",
    required=True,
    envvar="FINETREE_ACCESS_DIR",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the access file, as the services are given it (FINETREE_ACCESS_DIR).",
)


def _recording(function: Function) -> Function:
    """Add the options of the audit log."""
    options = (
        click.option(
            "--audit-dir",
            envvar="FINETREE_AUDIT_DIR",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder of audit logs, for a record of this change (FINETREE_AUDIT_DIR). Default: that beside the "
            "access file, where the services have made one.",
        ),
        click.option("--no-audit", is_flag=True, help="Record nothing."),
    )
    for option in options:
        function = option(function)
    return function


def _granting(function: Function) -> Function:
    """Add the options that say what is granted."""
    options = (
        click.option("--role", type=click.Choice(ROLES), default="read", show_default=True, help="Role in --project."),
        click.option("--also", multiple=True, metavar="PROJECT=ROLE", help="A role in a further project; repeatable."),
        click.option("--operator", is_flag=True, help="May change what belongs to no project, such as calibration."),
    )
    for option in options:
        function = option(function)
    return function


@click.group(
    cls=Group,
    examples=(
        "finetree tokens create ci --project search --role train --access-dir /etc/finetree/access",
        "finetree tokens list --access-dir /etc/finetree/access",
        "finetree tokens revoke tok_5f0c6c3b21aa --access-dir /etc/finetree/access",
    ),
)
def tokens() -> None:
    """Create, list and revoke the tokens with which clients call the services.

    They stand, as hashes, in the access file of a folder that the services share; run this where that folder is. What a
    role may do is in docs/access.md. A change holds from the next call on, and within 10 seconds for open streams.
    """


@tokens.command(
    examples=(
        "finetree tokens create ci --project search --role train --access-dir /etc/finetree/access",
        "finetree tokens create services --project '*' --role estimate --operator --access-dir /etc/finetree/access",
    ),
)
@click.argument("name")
@click.option("--expires", default="90d", show_default=True, metavar="TIME", help='Such as "90d", or "never".')
@_granting
@_recording
@_access_dir
@pass_settings
def create(
    settings: Settings,
    /,
    *,
    name: str,
    expires: str,
    role: str,
    also: tuple[str, ...],
    operator: bool,
    access_dir: Path,
    audit_dir: Path | None,
    no_audit: bool,
) -> None:
    """Create a token for the principal NAME and print it: it is shown this once.

    --project names the project of --role ("*" for every project), to which ids alone in its calls belong. In a pipe
    stdout is the token alone.
    """
    from finetree_cli.backends.access.program import ask

    granted = _granted(settings, role, also, operator=operator)
    audit = _audit(audit_dir, no_audit=no_audit)
    made = ask(access_dir, ["create", f"--expires={expires}", *granted, *audit, "--", name])
    if settings.out.json:
        settings.out.document(made)
        return
    settings.out.text(made["token"])
    settings.out.say(f"token {made['id']} of {made['principal']}: {_roles(made)}, expires {_time(made['expire_time'])}")
    settings.out.say("store it now: it is not shown again")


@tokens.command(
    "list",
    examples=(
        "finetree tokens list --access-dir /etc/finetree/access",
        "finetree tokens list --access-dir /etc/finetree/access --json | jq -r '.tokens[].id'",
    ),
)
@_access_dir
@pass_settings
def list_tokens(settings: Settings, access_dir: Path) -> None:
    """List the tokens without their secrets, and what principals of other kinds were granted."""
    from finetree_cli.backends.access.program import ask

    found = ask(access_dir, ["list"])
    if settings.out.json:
        settings.out.document(found)
        return
    rows = [
        (row["id"], row["principal"], _roles(row), row["state"], _time(row["create_time"]), _time(row["expire_time"]))
        for row in found["tokens"]
    ]
    settings.out.table(["Id", "Principal", "Roles", "State", "Created", "Expires"], rows)
    if found["grants"]:
        _show_grants(settings.out, found["grants"])


@tokens.command(examples=("finetree tokens revoke tok_5f0c6c3b21aa --access-dir /etc/finetree/access",))
@click.argument("token_id", metavar="ID")
@_recording
@_access_dir
@pass_settings
def revoke(settings: Settings, /, *, token_id: str, access_dir: Path, audit_dir: Path | None, no_audit: bool) -> None:
    """Revoke the token ID: its next call is refused, and its open streams end within 10 seconds."""
    from finetree_cli.backends.access.program import ask

    row = ask(access_dir, ["revoke", *_audit(audit_dir, no_audit=no_audit), "--", token_id])
    if settings.out.json:
        settings.out.document(row)
    else:
        settings.out.say(f"token {row['id']} of {row['principal']} is revoked")


@tokens.command(
    examples=(
        "finetree tokens grant oidc-group ml-search --project search --role train --access-dir /etc/finetree/access",
        "finetree tokens grant certificate trainer --operator --access-dir /etc/finetree/access",
    )
)
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@_granting
@_recording
@_access_dir
@pass_settings
def grant(
    settings: Settings,
    /,
    *,
    kind: str,
    name: str,
    role: str,
    also: tuple[str, ...],
    operator: bool,
    access_dir: Path,
    audit_dir: Path | None,
    no_audit: bool,
) -> None:
    """Set what those may do who come without a token of ours: by OpenID Connect, or by a client's certificate.

    What NAME was granted before is replaced.
    """
    from finetree_cli.backends.access.program import ask

    granted = _granted(settings, role, also, operator=operator)
    row = ask(access_dir, ["grant", *granted, *_audit(audit_dir, no_audit=no_audit), "--", kind, name])
    if settings.out.json:
        settings.out.document(row)
    else:
        settings.out.say(f"{kind} {name}: {_roles(row)}")


@tokens.command(examples=("finetree tokens ungrant oidc-group ml-search --access-dir /etc/finetree/access",))
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@_recording
@_access_dir
@pass_settings
def ungrant(
    settings: Settings, /, *, kind: str, name: str, access_dir: Path, audit_dir: Path | None, no_audit: bool
) -> None:
    """Take everything that NAME was granted."""
    from finetree_cli.backends.access.program import ask

    row = ask(access_dir, ["ungrant", *_audit(audit_dir, no_audit=no_audit), "--", kind, name])
    if settings.out.json:
        settings.out.document(row)
    else:
        settings.out.say(f"{kind} {name} may do nothing now")


def _audit(audit_dir: Path | None, *, no_audit: bool) -> list[str]:
    if no_audit:
        return ["--no-audit"]
    return [] if audit_dir is None else [f"--audit-dir={audit_dir}"]


def _granted(settings: Settings, role: str, also: tuple[str, ...], *, operator: bool) -> list[str]:
    words = [f"--project={settings.project}", f"--role={role}"] if settings.project else []
    return [*words, *(f"--also={each}" for each in also), *(["--operator"] if operator else [])]


def _roles(row: dict[str, Any]) -> str:
    words = [f"{project}={role}" for project, role in row["roles"].items()]
    return ", ".join([*words, *(["operator"] if row["operator"] else [])])


def _time(text: str | None) -> str:
    return text or "never"


def _show_grants(out: "Output", grants: list[dict[str, Any]]) -> None:
    out.table(["Kind", "Name", "Roles"], [(row["kind"], row["name"], _roles(row)) for row in grants])
