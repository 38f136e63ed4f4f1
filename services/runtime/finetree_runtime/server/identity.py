# SPDX-License-Identifier: Apache-2.0
"""Name, version and limits of a server, and who asks, as GetServerInfo replies them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata

from finetree_api.types.v1 import server_pb2

from finetree_runtime.config.settings import ServiceSettings
from finetree_runtime.server import context
from finetree_runtime.server.access.requirement import ROLES
from finetree_runtime.server.entry.admission import CallLimits

ROLE_VALUES = {role: value for value, role in ROLES.items()}
"""Value of the contract's enum by role."""
API_REVISIONS = ("v1",)
"""Revisions of the API that this version serves."""


def server_info(
    service: str, version: str, *, features: Iterable[str] = (), limits: Mapping[str, int] | None = None
) -> server_pb2.ServerInfo:
    """Build the `ServerInfo` of a GetServerInfo reply.

    Args:
        service: For example "finetree-estimator".
        version: The program's version; see `distribution_version`.
        features: Names of optional features that a client may test for.
        limits: Limits by name, with the unit in the name ("max_request_bytes"); see `limits_of`.
    """
    return server_pb2.ServerInfo(
        service=service,
        version=version,
        api_revisions=API_REVISIONS,
        features=sorted(features),
        limits=dict(limits or {}),
        caller=caller(),
    )


def limits_of(settings: ServiceSettings) -> dict[str, int]:
    """Limits that every service has, by name."""
    return {"max_request_bytes": settings.max_request_bytes, **CallLimits.of(settings).shown()}


def caller() -> server_pb2.Caller:
    """Describe the principal of this call."""
    principal = context.principal()
    found = server_pb2.Caller(
        principal=principal.name,
        project=principal.project,
        roles={project: ROLE_VALUES[role] for project, role in principal.grants.roles.items()},
        operator=principal.grants.operator,
    )
    if principal.expire_time is not None:
        found.expire_time.FromDatetime(principal.expire_time)
    return found


def distribution_version(distribution: str) -> str:
    """Installed version of a distribution, for example of "finetree-estimator"; "0" where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "0"
