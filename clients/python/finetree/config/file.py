# SPDX-License-Identifier: Apache-2.0
"""The configuration file: named profiles in TOML, whose mistakes are found by their line.

profile = "prod"                  # the profile that is used when none is named

[profiles.prod]
address = "https://finetree.example.com:443"
project = "search"
token_command = ["vault", "read", "-field=token", "secret/finetree"]
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree.config.keys import KEYS, TOKENS
from finetree.errors import InvalidArgument, Violation

DEFAULT_PROFILE = "default"
"""Name of the profile that is used when none is named and the file chooses none."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration file that was read. `content` is its TOML as plain values."""

    path: Path
    text: str
    content: Mapping[str, Any]

    @property
    def profiles(self) -> list[str]:
        """Names of the profiles, in the order of the file."""
        return list(self.content.get("profiles", {}))

    @property
    def chosen(self) -> str:
        """Name of the profile that the file chooses; empty when it chooses none."""
        return str(self.content.get("profile", ""))

    def profile(self, name: str) -> dict[str, Any]:
        """Read the settings of a profile.

        Raises:
            InvalidArgument: INVALID_CONFIG: there is none of that name, or a key or value is wrong; the message names
                the file and the line.
        """
        if name not in self.profiles:
            raise unknown_profile(name, self.path, self.profiles)
        table = self.content["profiles"][name]
        found = {key: self._value(name, key, value) for key, value in table.items()}
        several = [key for key in TOKENS if key in found]
        if len(several) > 1:
            raise self._wrong(["profiles", name, several[1]], f"the profile has {several[0]} already; keep one of them")
        return found

    def line(self, path: list[str]) -> int:
        """Line, from 1, where the value at a path of keys begins: the first that the file cannot do without.

        The reader of TOML in the standard library tells no lines, so it reads ever more of the file: for messages and
        origins alone.
        """
        lines = self.text.split("\n")
        complete = 0
        for count in range(1, len(lines) + 1):
            content = _parsed("\n".join(lines[:count]))
            if content is None:
                continue  # inside a value of several lines
            if _has(content, path):
                return complete + 1
            complete = count
        return max(1, len(lines))

    def _value(self, profile: str, name: str, given: Any) -> Any:
        path = ["profiles", profile, name]
        key = KEYS.get(name)
        if key is None:
            near = difflib.get_close_matches(name, KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(KEYS)}"
            raise self._wrong(path, f"there is no such key; {hint}")
        try:
            value = key.check(given)
        except ValueError as error:
            raise self._wrong(path, str(error)) from None
        return self.path.parent / value if isinstance(value, Path) else value  # a relative one is beside the file

    def _wrong(self, path: list[str], text: str) -> InvalidArgument:
        return wrong(self.path, self.line(path), ".".join(path), text)


def config_path(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Path of the configuration file, which need not exist; None where there is no home folder."""
    base = environment.get("XDG_CONFIG_HOME", "")
    if base and Path(base).is_absolute():  # the XDG specification has relative ones ignored
        return Path(base) / "finetree" / "config.toml"
    try:
        return Path.home() / ".config" / "finetree" / "config.toml"
    except RuntimeError:
        return None


def read_config(path: Path | None) -> ConfigFile | None:
    """Read a configuration file; None when there is none.

    Raises:
        InvalidArgument: INVALID_CONFIG: it cannot be read, is no TOML, or its profiles are no tables.
    """
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise wrong(path, 0, "", f"cannot be read: {why}") from None
    return parse_config(path, text)


def parse_config(path: Path, text: str) -> ConfigFile:
    """Parse the text of a configuration file.

    Raises:
        InvalidArgument: INVALID_CONFIG: it is no TOML, or its profiles are no tables.
    """
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # tomllib says where only in words: "… (at line 3, column 5)" or "… (at end of document)".
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = int(found[1]) if found and found[1] else max(1, text.count("\n"))
        raise wrong(path, line, "", f"is no TOML: {re.sub(r' [(]at .*', '', str(error))}") from None
    file = ConfigFile(path, text, content)
    for name in content:
        if name not in ("profile", "profiles"):
            raise wrong(path, file.line([name]), name, "there is no such key; settings stand under [profiles.NAME]")
    if not isinstance(content.get("profile", ""), str):
        raise wrong(path, file.line(["profile"]), "profile", "expected the name of a profile")
    tables = content.get("profiles", {})
    for name, table in tables.items() if isinstance(tables, dict) else [("", None)]:
        if not isinstance(table, dict):
            where = [part for part in ("profiles", name) if part]
            raise wrong(path, file.line(where), ".".join(where), "expected a table, as in [profiles.NAME]")
    return file


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Time, place and size of a file, which differ once it was changed or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def unknown_profile(name: str, path: Path | None, known: list[str]) -> InvalidArgument:
    """Make the error for a profile that does not exist."""
    have = f"has {', '.join(known)}" if known else "has no profile"
    return wrong(path, 0, "profile", f"there is no profile {name!r}; the file {have}")


def wrong(path: Path | None, line: int, field: str, text: str) -> InvalidArgument:
    """Make the error for a mistake in the configuration file. A `line` of 0 means the file as a whole."""
    where = f"{path}:{line}" if line else f"{path}"
    message = f"{where}: {field}: {text}" if field else f"{where}: {text}"
    return InvalidArgument(message, reason="INVALID_CONFIG", violations=(Violation(field, text),))


def _parsed(text: str) -> dict[str, Any] | None:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _has(content: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True
