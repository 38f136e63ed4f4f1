# SPDX-License-Identifier: Apache-2.0
"""How long what is kept, by kind and project: settings of the service, and a file for what differs from them."""

from dataclasses import dataclass, field
from typing import TypeAlias

from finetree_api.trainer.v1 import retention_pb2
from finetree_runtime.config.settings import Duration, Size
from finetree_runtime.config.toml_table import TomlTable

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
    content = TomlTable.read("retention_file", settings.retention_file)
    content.require_known("default", "projects")
    default |= _limits(content.table("default"))
    return Policy(default, {name: _limits(own) for name, own in content.table("projects").tables()})


def _limits(given: TomlTable) -> dict[Kind, Limit]:
    given.require_known(*KINDS)
    found = {}
    for name, limit in given.tables():
        limit.require_known("age", "bytes")
        found[KINDS[name]] = Limit(limit.value("age", Duration, 0.0), limit.value("bytes", Size, 0))
    return found
