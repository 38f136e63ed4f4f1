# SPDX-License-Identifier: Apache-2.0
"""Authorization: may this principal make this call?

The answer depends on the caller and on names in the request alone, never on what exists: a project that nobody has and
one that others have are refused in the same words.
"""

from __future__ import annotations

from typing import Any

from finetree_runtime.errors import PermissionDenied
from finetree_runtime.server.access.requirement import Requirement
from finetree_runtime.server.access.roles import EVERY_PROJECT, Role
from finetree_runtime.server.context import Principal


def authorize(requirement: Requirement | None, request: Any, principal: Principal) -> None:
    """Check a call; `request` is None for one whose message cannot be read, which is refused later.

    Raises:
        PermissionDenied: ROLE_MISSING with the role and the project in its metadata; RPC_WITHOUT_ROLE where the
            contract states nothing for the rpc.
    """
    if requirement is None:
        text = "the contract does not say who may call this rpc, so nobody may: update the server"
        raise PermissionDenied("RPC_WITHOUT_ROLE", text)
    role, grants = requirement.role, principal.grants
    if role is None or grants.allows(role, EVERY_PROJECT):
        return
    if role is Role.OPERATOR:
        raise role_missing(principal, role)
    projects = set() if request is None else requirement.projects(request, principal.project)
    for project in sorted(projects):
        if not grants.allows(role, project):
            raise role_missing(principal, role, project)
    if not projects and not grants.allows_somewhere(role):
        raise role_missing(principal, role)


def role_missing(principal: Principal, role: Role, project: str = "") -> PermissionDenied:
    """Build the error for a caller without the role that a call needs; no project: one that is about none."""
    where = f" in project {project}" if project else ""
    text = f"{principal.name} needs the role {role.word}{where}: ask who runs this service to grant it"
    metadata = {"role": role.word, "project": project} if project else {"role": role.word}
    return PermissionDenied("ROLE_MISSING", text, metadata=metadata)
