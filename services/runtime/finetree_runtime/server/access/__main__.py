# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_runtime.server.access`: change the access file of an installation; the answer is JSON on stdout.

    python -m finetree_runtime.server.access create ci --access-dir /etc/finetree --project search --role train
    python -m finetree_runtime.server.access list --access-dir /etc/finetree
    python -m finetree_runtime.server.access revoke tok_5f0c6c3b21aa --access-dir /etc/finetree
    python -m finetree_runtime.server.access grant oidc-group ml-search --access-dir /etc/finetree --project search
    python -m finetree_runtime.server.access ungrant oidc-group ml-search --access-dir /etc/finetree

Only `create` prints a token, once. `finetree tokens` is this program with tables for people. An error is one line
"REASON: message" on stderr, with exit code 2.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from finetree_runtime.config.settings import SettingsError, refuse_start
from finetree_runtime.config.values import Duration, convert
from finetree_runtime.ids import DEFAULT_PROJECT
from finetree_runtime.server.access import changes
from finetree_runtime.server.access.roles import EVERY_PROJECT, Grants, Role
from finetree_runtime.server.access.table import (
    KINDS,
    Granted,
    GrantRow,
    TokenRow,
    granted_json,
    is_name,
    is_project,
    parse_role,
    time_text,
)
from finetree_runtime.server.access.token import PREFIX
from finetree_runtime.server.audit import commands
from finetree_runtime.server.context import LOCAL, UNKNOWN

EXPIRES = "90d"
"""How long a token lasts unless it is said."""
AUDIT = "audit"
"""Folder of audit logs beside the access file, which the services make unless they are given another one."""
RESERVED = (LOCAL.name, UNKNOWN.name)
"""Names of principals that no token stands for."""


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code."""
    try:
        given = _parser().parse_args(list(arguments))
        answer = _run(given)
    except SettingsError as error:
        return refuse_start(error)
    print(json.dumps(answer))  # noqa: T201  # the answer
    return 0


def _run(given: argparse.Namespace) -> dict[str, Any]:
    """Run a command; of one that changes something the audit log has a record, where there are audit logs."""
    if given.command == "list":
        return _list(given)
    beside = given.access_dir / AUDIT
    folder = None if given.no_audit else given.audit_dir or (beside if beside.is_dir() else None)
    with commands.recorded(folder, f"finetree tokens {given.command}", _named(given)) as found:
        answer = _COMMANDS[given.command](given)
        found["resources"] = _resources(answer)
        found.update({name: answer[name] for name in ("roles", "operator") if name in answer})
    return answer


def _named(given: argparse.Namespace) -> dict[str, Any]:
    """What a command is told to change, as far as it is a name; a text that is none is left out, it may be a token."""
    name = given.id if given.command == "revoke" else given.name
    kind = {"create": "principals", "revoke": "tokens"}.get(given.command) or given.kind
    return {"resources": [f"{kind}/{name}"] if is_name(name) and not name.startswith(PREFIX) else []}


def _resources(answer: dict[str, Any]) -> list[str]:
    if "id" in answer:
        return [f"tokens/{answer['id']}", f"principals/{answer['principal']}"]
    return [f"{answer['kind']}/{answer['name']}"]


def _create(given: argparse.Namespace) -> dict[str, Any]:
    if given.name in RESERVED:
        raise _invalid("NAME", f"{given.name!r} stands in logs for callers without a token: take another")
    if not is_name(given.name):
        raise _invalid("NAME", f"{given.name!r} is no name: take printable characters without spaces")
    expires = None if given.expires == "never" else dt.timedelta(seconds=_seconds(given.expires))
    row, text = changes.create_token(given.access_dir, given.name, _granted(given), expires=expires)
    return {"token": text, **_shown(row)}


def _list(given: argparse.Namespace) -> dict[str, Any]:
    table = changes.read_folder(given.access_dir)
    grants = [{"kind": row.kind, "name": row.name, **granted_json(row.granted)} for row in table.grants]
    return {"tokens": [_shown(row) for row in table.tokens], "grants": grants}


def _revoke(given: argparse.Namespace) -> dict[str, Any]:
    return _shown(changes.revoke_token(given.access_dir, given.id))


def _grant(given: argparse.Namespace) -> dict[str, Any]:
    row = GrantRow(given.kind, given.name, _granted(given))
    changes.set_grant(given.access_dir, row)
    return {"kind": row.kind, "name": row.name, **granted_json(row.granted)}


def _ungrant(given: argparse.Namespace) -> dict[str, Any]:
    changes.remove_grant(given.access_dir, given.kind, given.name)
    return {"kind": given.kind, "name": given.name}


_COMMANDS = {"create": _create, "revoke": _revoke, "grant": _grant, "ungrant": _ungrant}


def _granted(given: argparse.Namespace) -> Granted:
    """What the flags grant. Raises SettingsError SETTING_INVALID."""
    roles: dict[str, Role] = {}
    if given.project:
        roles[_project("--project", given.project)] = _role("--role", given.role)
    for text in given.also or ():
        project, separator, word = text.partition("=")
        if not separator:
            raise _invalid("--also", f"{text!r} is not PROJECT=ROLE")
        roles[_project("--also", project)] = _role("--also", word)
    if not roles and not given.operator:
        raise _invalid("--project", "grant a role in a project (--project search --role train), or --operator")
    own = next((project for project in roles if project != EVERY_PROJECT), DEFAULT_PROJECT)
    return Granted(own, Grants(roles, operator=given.operator))


def _shown(row: TokenRow) -> dict[str, Any]:
    """A token as commands show it: without its hash."""
    return {
        "id": row.id,
        "principal": row.principal,
        **granted_json(row.granted),
        "state": row.state(dt.datetime.now(dt.UTC)),
        "create_time": time_text(row.create_time),
        "expire_time": time_text(row.expire_time),
        "revoke_time": time_text(row.revoke_time),
    }


def _project(flag: str, text: str) -> str:
    if not is_project(text):
        raise _invalid(flag, f"{text!r} is no project: take its id, or {EVERY_PROJECT!r} for every project")
    return text


def _role(flag: str, word: str) -> Role:
    try:
        return parse_role(word)
    except ValueError as error:
        raise _invalid(flag, str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(convert(Duration, text))
    except ValueError as error:
        raise _invalid("--expires", str(error)) from None
    if not 0 < seconds < 100 * 365 * 86400:
        raise _invalid("--expires", "must be more than nothing and less than 100 years, or never")
    return seconds


def _invalid(flag: str, text: str) -> SettingsError:
    return SettingsError("SETTING_INVALID", f"{flag}: {text}")


class _Parser(argparse.ArgumentParser):
    """Raises SettingsError instead of printing the usage and ending the program."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError("SETTING_INVALID", f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    shared = _Parser(add_help=False)
    shared.add_argument("--access-dir", type=Path, required=True, metavar="DIR", help="folder of the access file")
    auditing = "folder of audit logs for a record of the change; default: the services' beside the access file, if any"
    shared.add_argument("--audit-dir", type=Path, metavar="DIR", help=auditing)
    shared.add_argument("--no-audit", action="store_true", help="record nothing")
    granting = _Parser(add_help=False)
    granting.add_argument("--project", default="", help='project of the role; "*": every project')
    granting.add_argument("--role", default=Role.READ.word, help="estimate, read, train or admin; default read")
    granting.add_argument("--also", action="append", metavar="PROJECT=ROLE", help="a role in a further project")
    granting.add_argument("--operator", action="store_true", help="may change what belongs to no project")
    parser = _Parser(prog="python -m finetree_runtime.server.access", description="Change who may call the services.")
    words = parser.add_subparsers(dest="command", required=True)
    create = words.add_parser("create", parents=[shared, granting], help="create a token and print it")
    create.add_argument("name", metavar="NAME", help="principal that the token stands for, such as ci")
    create.add_argument("--expires", default=EXPIRES, metavar="TIME", help=f"such as {EXPIRES}, or never")
    words.add_parser("list", parents=[shared], help="print tokens, without their secrets, and grants")
    words.add_parser("revoke", parents=[shared], help="revoke a token").add_argument("id", metavar="ID")
    for name, parents, text in (
        ("grant", [shared, granting], "set what another kind of principal may do"),
        ("ungrant", [shared], "take everything from such a principal"),
    ):
        command = words.add_parser(name, parents=parents, help=text)
        command.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
        command.add_argument("name", metavar="NAME", help="subject, group or certificate's subject")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
