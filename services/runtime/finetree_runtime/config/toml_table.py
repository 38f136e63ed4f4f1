# SPDX-License-Identifier: Apache-2.0
"""Tables of a TOML file that a setting names, read as strictly as the settings themselves.

content = TomlTable.read("retention_file", settings.retention_file)
content.require_known("default", "projects")
age = content.table("default").value("age", Duration, 0.0)
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.config.values import convert


@dataclass(frozen=True, slots=True)
class TomlTable:
    """One table. What it raises is SettingsError SETTING_INVALID, which names the setting and the key.

    Attributes:
        setting: The setting that names the file, such as "retention_file".
        values: What the table states.
        path: Keys that lead to it, such as "projects.search"; "" for the whole file.
    """

    setting: str
    values: Mapping[str, Any]
    path: str = ""

    @classmethod
    def read(cls, setting: str, file: Path) -> TomlTable:
        """Read a whole file."""
        try:
            return cls(setting, tomllib.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:  # ValueError: TOML syntax, and bytes that are not UTF-8
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise SettingsError("SETTING_INVALID", f"{setting}: {file.name} cannot be read: {why}") from None

    def require_known(self, *known: str) -> None:
        """Refuse a key that is none of `known`."""
        if unknown := sorted(self.values.keys() - set(known)):
            raise self.invalid(unknown[0], f"is none of {', '.join(known)}")

    def table(self, key: str) -> TomlTable:
        """Return the table under a key; an empty one where the key is missing."""
        found = self.values.get(key, {})
        if not isinstance(found, dict):
            raise self.invalid(key, "is not a table")
        return TomlTable(self.setting, found, self._path_of(key))

    def tables(self) -> Iterator[tuple[str, TomlTable]]:
        """Yield all keys with the tables under them."""
        for key in self.values:
            yield key, self.table(key)

    def value(self, key: str, kind: Any, default: Any) -> Any:
        """Return the value under a key, converted to the type of a setting: `Size`, `Duration`, int."""
        if key not in self.values:
            return default
        try:
            return convert(kind, self.values[key])
        except ValueError as error:
            raise self.invalid(key, str(error)) from None

    def invalid(self, key: str, why: str) -> SettingsError:
        """Build the error of a key's value; with the key "", of the table itself."""
        path = self._path_of(key)
        return SettingsError("SETTING_INVALID", f"{self.setting}: {path}: {why}" if path else f"{self.setting}: {why}")

    def _path_of(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path and key else self.path or key
