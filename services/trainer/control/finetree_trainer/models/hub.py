# SPDX-License-Identifier: Apache-2.0
"""Models of a hub as the trainer keeps them: ids, folders, which commit a branch was, and how workers get at the hub.

The trainer itself never speaks to a hub: a PREPARE task does, and leaves one folder for each commit.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from finetree_api.trainer.v1 import worker_pb2
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import invalid_field

from finetree_trainer.settings import Settings

ORIGIN = "hub:"
"""How the origin of a hub's model begins."""
DEFAULT_REVISION = "main"
"""The branch that is meant when a spec names none."""
DEFAULT_ENDPOINT = "https://huggingface.co"
COMMIT = re.compile(r"[0-9a-f]{40}")
"""A commit's hash."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}", re.ASCII)


def access(settings: Settings, environment: Mapping[str, str]) -> worker_pb2.HubAccess:
    """How a worker gets at the hub. Raises SettingsError for an endpoint that is no address."""
    endpoint = settings.hub_endpoint or environment.get("HF_ENDPOINT", "") or DEFAULT_ENDPOINT
    if not re.fullmatch(r"https?://[^\s/]+\S*", endpoint):
        raise SettingsError("SETTING_INVALID", "hub_endpoint: must be an address that begins with https:// or http://")
    return worker_pb2.HubAccess(
        endpoint=endpoint.rstrip("/"),
        token=settings.hub_token.reveal(),
        offline=settings.hub_offline,
        reserve_bytes=settings.disk_reserve_bytes,
        proxy=_proxy(endpoint, environment),
    )


def _proxy(endpoint: str, environment: Mapping[str, str]) -> str:
    """The proxy that the environment names for the endpoint, in the way of curl; empty for none."""
    address = urlsplit(endpoint)
    given = {name.lower(): value for name, value in environment.items() if name.lower().endswith("_proxy")}
    direct = [part.strip().lstrip(".") for part in given.get("no_proxy", "").split(",") if part.strip()]
    host = address.hostname or ""
    if any(part in ("*", host) or host.endswith(f".{part}") for part in direct):
        return ""
    return given.get(f"{address.scheme}_proxy") or given.get("all_proxy", "")


def check(model_id: str, revision: str, field_path: str) -> None:
    """Raise InvalidArgument INVALID_REQUEST for what cannot be a hub's id or revision."""
    if not _ID.fullmatch(model_id) or ".." in model_id or "--" in model_id:
        raise invalid_field(f"{field_path}.id", "must be a hub id such as organisation/name")
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise invalid_field(f"{field_path}.revision", "must be a commit, a branch or a tag")


def home(models: Path, model_id: str) -> Path:
    """The folder of a repository's commits. Hubs do not tell letter cases apart, and neither does this."""
    return models / "hub" / model_id.lower().replace("/", "--")


def refs(folder: Path) -> dict[str, str]:
    """Commits by branch or tag, as they were when they were last asked for."""
    try:
        content = json.loads((folder / "refs.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = content.items() if isinstance(content, dict) else ()
    return {ref: commit for ref, commit in found if isinstance(commit, str) and COMMIT.fullmatch(commit)}


def commit_of(folder: Path, revision: str) -> str:
    """The commit that a revision is, as far as it is known here; empty when it is not."""
    wanted = revision or DEFAULT_REVISION
    return wanted if COMMIT.fullmatch(wanted) else refs(folder).get(wanted, "")
