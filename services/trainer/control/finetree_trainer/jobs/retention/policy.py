# SPDX-License-Identifier: Apache-2.0
"""How long what is kept, by kind and project: settings of the service, and a file for what differs from them."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from finetree_api.trainer.v1 import retention_pb2
from finetree_runtime.config.settings import Duration, SettingsError, Size
from finetree_runtime.config.values import convert

from finetree_trainer.settings import Settings

Kind: TypeAlias = retention_pb2.StorageKind.ValueType

KINDS: dict[str, Kind] = {
    "jobs": retention_pb2.STORAGE_KIND_JOBS,
    "events": retention_pb2.STORAGE_KIND_EVENTS,
    "checkpoints": retention_pb2.STORAGE_KIND_CHECKPOINTS,
    "artifacts": retention_pb2.STORAGE_KIND_ARTIFACTS,
    "datasets": retention_pb2.STORAGE_KIND_DATASETS,
    "token_caches": retention_pb2.STORAGE_KIND_TOKEN_CACHES,
}
"""Kinds by their names in the file."""
_LIMITED = ("checkpoints", "artifacts", "datasets")
"""Kinds that the two settings are for: whole jobs and shared caches have limits of their own alone."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Seconds and bytes that are kept; 0 is no limit."""

    age: float = 0.0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits by kind, and those of projects that have their own."""

    default: dict[Kind, Limit] = field(default_factory=dict)
    projects: dict[str, dict[Kind, Limit]] = field(default_factory=dict)

    def limit(self, project: str, kind: Kind) -> Limit:
        """Return the limit of a kind in a project; "" is what projects share."""
        own = self.projects.get(project, {})
        return own.get(kind) or self.default.get(kind) or Limit()


def read_policy(settings: Settings) -> Policy:
    """Read the settings and their file. Raises SettingsError SETTING_INVALID, which names the key."""
    usual = Limit(settings.retention_age, settings.retention_bytes)
    default = {KINDS[name]: usual for name in _LIMITED}
    default[KINDS["events"]] = Limit(settings.event_retention, settings.retention_bytes)
    default[KINDS["token_caches"]] = Limit(settings.retention_age)
    if settings.retention_file is None:
        return Policy(default)
    content = _content(settings.retention_file)
    if unknown := sorted(content.keys() - {"default", "projects"}):
        raise _invalid(f"{unknown[0]}: is neither default nor projects")
    default |= _limits(content.get("default", {}), "default")
    projects = _table(content.get("projects", {}), "projects")
    return Policy(default, {name: _limits(own, f"projects.{name}") for name, own in projects.items()})


def _content(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise _invalid(f"{file.name} cannot be read: {why}") from None


def _limits(given: Any, key: str) -> dict[Kind, Limit]:
    found = {}
    for name, limit in _table(given, key).items():
        if name not in KINDS:
            raise _invalid(f"{key}.{name}: is none of {', '.join(KINDS)}")
        stated = _table(limit, f"{key}.{name}")
        if unknown := sorted(stated.keys() - {"age", "bytes"}):
            raise _invalid(f"{key}.{name}.{unknown[0]}: is neither age nor bytes")
        age = _value(stated.get("age", 0), Duration, f"{key}.{name}.age")
        found[KINDS[name]] = Limit(age, _value(stated.get("bytes", 0), Size, f"{key}.{name}.bytes"))
    return found


def _table(given: Any, key: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _invalid(f"{key}: is not a table")
    return given


def _value(raw: Any, kind: Any, key: str) -> Any:
    try:
        return convert(kind, raw)
    except ValueError as error:
        raise _invalid(f"{key}: {error}") from None


def _invalid(text: str) -> SettingsError:
    return SettingsError("SETTING_INVALID", f"retention_file: {text}")
