# SPDX-License-Identifier: Apache-2.0
"""What the access file holds: tokens by their hash, and what principals of other kinds were granted.

{"version": 1,
 "tokens": [{"id": "tok_5f0c…", "sha256": "…", "principal": "ci", "project": "search", "roles": {"search": "train"},
             "operator": false, "create_time": "2026-11-28T20:00:00Z", "expire_time": null, "revoke_time": null}],
 "grants": [{"kind": "oidc-group", "name": "ml-search", "project": "search", "roles": {"search": "train"},
             "operator": false}]}
"""

from __future__ import annotations

import datetime as dt
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetree_runtime.ids import DEFAULT_PROJECT, is_segment
from finetree_runtime.server.access.roles import EVERY_PROJECT, Grants, Role

VERSION = 1
KINDS = ("oidc-subject", "oidc-group", "certificate")
"""Kinds of principals whose grants stand in the file; tokens carry their own."""

_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[!-~]{1,256}")
_PREFIX_DIGITS = 8


class AccessFileError(Exception):
    """The content cannot be used. The message says where and what is wrong, without a secret or a path."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What a principal may do, and the project that its short names belong to."""

    project: str
    grants: Grants


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token without its secret; `sha256` is what it is found by."""

    id: str
    sha256: str
    principal: str
    granted: Granted
    create_time: dt.datetime
    expire_time: dt.datetime | None = None
    revoke_time: dt.datetime | None = None

    def state(self, now: dt.datetime) -> str:
        """One of "active", "expired", "revoked"."""
        if self.revoke_time is not None:
            return "revoked"
        return "expired" if self.expire_time is not None and self.expire_time <= now else "active"


@dataclass(frozen=True, slots=True)
class GrantRow:
    """Grants of an OIDC subject or group, or of the subject of a client's certificate."""

    kind: str
    name: str
    granted: Granted


@dataclass(frozen=True, slots=True)
class AccessTable:
    """The content of an access file."""

    tokens: tuple[TokenRow, ...] = ()
    grants: tuple[GrantRow, ...] = ()
    _by_prefix: dict[str, list[TokenRow]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the tokens by the first digits of their hashes."""
        for row in self.tokens:
            self._by_prefix.setdefault(row.sha256[:_PREFIX_DIGITS], []).append(row)

    def token(self, sha256: str) -> TokenRow | None:
        """Return the token of a hash; the time that it takes does not tell how much of a hash is right."""
        rows = self._by_prefix.get(sha256[:_PREFIX_DIGITS], ())
        return next((row for row in rows if hmac.compare_digest(row.sha256, sha256)), None)

    def grants_of(self, kind: str, names: Iterable[str]) -> Granted | None:
        """Unite what the named principals of a kind were granted; None where none of them was granted anything.

        Of several roles in a project the largest holds; the project of short names is that of the first row.
        """
        wanted = set(names)
        return unite(row.granted for row in self.grants if row.kind == kind and row.name in wanted)


def unite(granted: Iterable[Granted | None]) -> Granted | None:
    """Unite grants: of several roles in a project the largest, the project of the first; None where there are none."""
    found = [each for each in granted if each is not None]
    if not found:
        return None
    roles: dict[str, Role] = {}
    for each in found:
        for project, role in each.grants.roles.items():
            roles[project] = max(role, roles.get(project, role))
    return Granted(found[0].project, Grants(roles, operator=any(each.grants.operator for each in found)))


def parse_table(text: str) -> AccessTable:
    """Parse the content of an access file. Raises AccessFileError."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AccessFileError(f"it is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise AccessFileError(f"it is not an access file of version {VERSION}")
    unknown = sorted(content.keys() - {"version", "tokens", "grants"})
    if unknown:
        raise AccessFileError(f"it has an unknown key {unknown[0]!r}")
    tokens = tuple(_each(content, "tokens", _token))
    for name in ("id", "sha256"):
        if len({getattr(row, name) for row in tokens}) < len(tokens):
            raise AccessFileError(f"tokens: two have the same {name}")
    return AccessTable(tokens, tuple(_each(content, "grants", _grant)))


def table_text(table: AccessTable) -> str:
    """Write a table as the content of an access file."""
    tokens = [
        {
            "id": row.id,
            "sha256": row.sha256,
            "principal": row.principal,
            **granted_json(row.granted),
            "create_time": time_text(row.create_time),
            "expire_time": time_text(row.expire_time),
            "revoke_time": time_text(row.revoke_time),
        }
        for row in table.tokens
    ]
    grants = [{"kind": row.kind, "name": row.name, **granted_json(row.granted)} for row in table.grants]
    return json.dumps({"version": VERSION, "tokens": tokens, "grants": grants}, indent=1) + "\n"


def granted_json(granted: Granted) -> dict[str, Any]:
    """Project, roles by project and whether it is an operator, as they stand in the file."""
    roles = {project: role.word for project, role in granted.grants.roles.items()}
    return {"project": granted.project, "roles": roles, "operator": granted.grants.operator}


def time_text(time: dt.datetime | None) -> str | None:
    """Write a time in RFC 3339, in UTC; None stays None."""
    return None if time is None else time.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def parse_role(word: str) -> Role:
    """Parse a role of a project, "estimate" to "admin". Raises ValueError."""
    role = next((each for each in Role if each.word == word), None)
    if role is None or role is Role.OPERATOR:
        raise ValueError(f"{word!r} is no role: take estimate, read, train or admin")
    return role


def is_project(text: str) -> bool:
    """Whether a text names a project in grants: its id, or "*" for every project."""
    return text == EVERY_PROJECT or is_segment(text)


def is_name(text: str) -> bool:
    """Whether a text can be the name of a principal: up to 256 printable ASCII characters without spaces."""
    return _NAME.fullmatch(text) is not None


def _each(content: Mapping[str, Any], key: str, parse: Any) -> Iterable[Any]:
    rows = content.get(key, [])
    if not isinstance(rows, list):
        raise AccessFileError(f"{key}: it is not a list")
    for index, row in enumerate(rows):
        try:
            yield parse(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise AccessFileError(f"{key}[{index}]: {what}") from None


def _token(row: Mapping[str, Any]) -> TokenRow:
    if not _HASH.fullmatch(row["sha256"]):
        raise ValueError("sha256 is no hash")
    created = _time(row["create_time"])
    if created is None or not is_name(row["id"]) or not is_name(row["principal"]):
        raise ValueError("id, principal or create_time is wrong")
    expires, revoked = _time(row["expire_time"]), _time(row["revoke_time"])
    return TokenRow(row["id"], row["sha256"], row["principal"], _granted(row), created, expires, revoked)


def _grant(row: Mapping[str, Any]) -> GrantRow:
    if row["kind"] not in KINDS or not isinstance(row["name"], str) or not row["name"]:
        raise ValueError(f"kind is none of {', '.join(KINDS)}, or name is empty")
    return GrantRow(row["kind"], row["name"], _granted(row))


def _granted(row: Mapping[str, Any]) -> Granted:
    roles = {project: parse_role(word) for project, word in row["roles"].items()}
    project, operator = row.get("project") or DEFAULT_PROJECT, row.get("operator", False)
    if not all(is_project(each) for each in roles) or not is_segment(project) or not isinstance(operator, bool):
        raise ValueError("a project or operator is wrong")
    return Granted(project, Grants(roles, operator=operator))


def _time(text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    time = dt.datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return time
