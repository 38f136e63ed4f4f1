# SPDX-License-Identifier: Apache-2.0
"""Name, version and limits of a server, as GetServerInfo replies them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata

from finetree_api.types.v1 import server_pb2

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
        limits: Limits by name, with the unit in the name ("max_request_bytes").
    """
    return server_pb2.ServerInfo(
        service=service,
        version=version,
        api_revisions=API_REVISIONS,
        features=sorted(features),
        limits=dict(limits or {}),
    )


def distribution_version(distribution: str) -> str:
    """Installed version of a distribution, for example of "finetree-estimator"; "0" where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "0"
