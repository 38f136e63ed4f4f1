# SPDX-License-Identifier: Apache-2.0
"""What a server says about itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata

from finetree_api.types.v1 import evidence_pb2

API_REVISIONS = ("v1",)
"""Revisions of the API that every service of this version serves."""


def server_info(
    service: str, version: str, *, features: Iterable[str] = (), limits: Mapping[str, int] | None = None
) -> evidence_pb2.ServerInfo:
    """The `ServerInfo` that each service answers GetServerInfo with.

    Args:
        service: For example "finetree-estimator".
        version: The program's version; see `distribution_version`.
        features: What a client may look for.
        limits: Limits by name, with the unit in the name ("max_request_bytes").
    """
    return evidence_pb2.ServerInfo(
        service=service,
        version=version,
        api_revisions=API_REVISIONS,
        features=sorted(features),
        limits=dict(limits or {}),
    )


def distribution_version(distribution: str) -> str:
    """The installed version of a distribution, for example of "finetree-estimator"; "0" where it runs uninstalled."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "0"
