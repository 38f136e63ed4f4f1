# SPDX-License-Identifier: Apache-2.0
"""Hub models on this machine: ids, folders, the commit of each branch, and the workers' access to the hub.

The service itself never connects to a hub: a PREPARE task does, and leaves one folder for each commit.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from finetree_api.worker.v1 import worker_pb2
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import invalid_field

from finetree_trainer.models.json_file import json_object
from finetree_trainer.settings import Settings

ORIGIN = "hub:"
"""How the origin of a hub's model begins."""
DEFAULT_REVISION = "main"
"""Branch of a spec that names no revision."""
DEFAULT_ENDPOINT = "https://huggingface.co"
COMMIT = re.compile(r"[0-9a-f]{40}")
"""A commit's hash."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}", re.ASCII)


def hub_access(settings: Settings, environment: Mapping[str, str]) -> worker_pb2.HubAccess:
    """Build a worker's access to the hub. Raises SettingsError for an endpoint that is not a URL."""
    endpoint = settings.hub_endpoint or environment.get("HF_ENDPOINT", "") or DEFAULT_ENDPOINT
    if not re.fullmatch(r"https?://[^\s/]+\S*", endpoint):
        raise SettingsError("SETTING_INVALID", "hub_endpoint: must be a URL that begins with https:// or http://")
    return worker_pb2.HubAccess(
        endpoint=endpoint.rstrip("/"),
        token=settings.hub_token.reveal(),
        offline=settings.hub_offline,
        reserve_bytes=settings.disk_reserve_bytes,
        proxy=_proxy(endpoint, environment),
    )


def _proxy(endpoint: str, environment: Mapping[str, str]) -> str:
    """The proxy of the endpoint by the environment's variables, read as curl reads them; "" for none."""
    address = urlsplit(endpoint)
    given = {name.lower(): value for name, value in environment.items() if name.lower().endswith("_proxy")}
    direct = [part.strip().lstrip(".") for part in given.get("no_proxy", "").split(",") if part.strip()]
    host = address.hostname or ""
    if any(part in ("*", host) or host.endswith(f".{part}") for part in direct):
        return ""
    return given.get(f"{address.scheme}_proxy") or given.get("all_proxy", "")


def require_hub_id(model_id: str, revision: str, field_path: str) -> None:
    """Raise InvalidArgument INVALID_REQUEST unless the id and the revision are well-formed."""
    if not _ID.fullmatch(model_id) or ".." in model_id or "--" in model_id:
        raise invalid_field(f"{field_path}.id", "must be a hub id such as organization/name")
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise invalid_field(f"{field_path}.revision", "must be a commit, a branch or a tag")


def home(models: Path, model_id: str) -> Path:
    """The folder of a repository's commits. As on the hub, letter case does not matter."""
    return models / "hub" / model_id.lower().replace("/", "--")


def refs(folder: Path) -> dict[str, str]:
    """Commits by branch or tag, as they were at the last PREPARE job."""
    found = json_object(folder / "refs.json").items()
    return {ref: commit for ref, commit in found if isinstance(commit, str) and COMMIT.fullmatch(commit)}


def commit_of(folder: Path, revision: str) -> str:
    """The commit of a revision as far as it is known here, else ""."""
    wanted = revision or DEFAULT_REVISION
    return wanted if COMMIT.fullmatch(wanted) else refs(folder).get(wanted, "")
