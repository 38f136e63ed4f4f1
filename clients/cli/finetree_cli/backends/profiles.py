# SPDX-License-Identifier: Apache-2.0
"""Read and change profiles of the configuration file; what people wrote beside them stays as it is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetree.config.file import config_path, parse_config, read_config, unknown_profile
from finetree.config.keys import KEYS, TOKENS
from finetree.config.settings import Setting
from finetree.errors import InvalidArgument

from finetree_cli.backends.private_files import write_private
from finetree_cli.errors import BadInput, NotAvailable

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

    from finetree_cli.options.command import Settings


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile as it is listed: its settings as text, with secrets masked, or what is wrong with it."""

    name: str
    settings: Mapping[str, str]
    problem: str = ""


def require_path() -> Path:
    """Return the path of the configuration file.

    Raises:
        NotAvailable: There is no home folder to put it in.
    """
    path = config_path()
    if path is None:
        text = "there is no home folder for a configuration file"
        raise NotAvailable(text, remedy="set HOME or XDG_CONFIG_HOME", reason="NO_HOME")
    return path


def list_profiles() -> list[Profile]:
    """List the profiles of the file; one with a mistake says so, and affects no other."""
    file = read_config(config_path())
    found = []
    for name in file.profiles if file is not None else []:
        try:
            values = file.profile(name) if file is not None else {}
        except InvalidArgument as error:
            found.append(Profile(name, {}, error.message))
            continue
        found.append(Profile(name, {key: Setting(key, value, "", "profile").shown() for key, value in values.items()}))
    return found


def used_profile(settings: "Settings") -> str:
    """Name of the profile that is used now; empty where there is none, or a mistake in it."""
    try:
        return str(settings.resolved().profile.value)
    except InvalidArgument:
        return ""


def change(name: str, values: Mapping[str, str]) -> Path:
    """Change settings of a profile, which is made if it does not exist, and return the file.

    Args:
        name: the profile.
        values: texts by key; an empty one removes the setting.

    Raises:
        BadInput: A key or a value is wrong; nothing was changed.
    """
    parsed = {key: _parsed(key, text) for key, text in values.items()}
    document = _document()
    table = _table(_table(document, "profiles", super_table=True), name)
    if any(parsed.get(key) is not None for key in TOKENS):
        # It replaces the token that there was, whichever kind it had.
        parsed |= {key: None for key in TOKENS if key not in parsed}
    for key, value in parsed.items():
        if value is not None:
            table[key] = value
        elif key in table:
            del table[key]
    return _write(document, name)


def choose(name: str) -> Path:
    """Make a profile the one that is used where none is named, and return the file."""
    document = _document()
    _require(document, name)
    document["profile"] = name
    return _write(document, name)


def delete(name: str) -> Path:
    """Delete a profile, and return the file."""
    document = _document()
    _require(document, name)
    del document["profiles"][name]
    if document.get("profile") == name:
        del document["profile"]
    return _write(document)


def _parsed(key: str, text: str) -> Any:
    """Parse a setting to the value that the file gets; None for an empty text."""
    if not text:
        return None
    if key not in KEYS:
        raise BadInput(f"there is no setting {key!r}", remedy=f"the settings are {', '.join(KEYS)}")
    try:
        value = KEYS[key].parse(text)
    except ValueError as error:
        raise BadInput(f"{key}: {error}") from None
    if isinstance(value, Path):
        # A relative path in the file is beside the file; the one that was typed is of this folder.
        return text if text.startswith("~") else os.path.abspath(value)  # noqa: PTH100 - it need not exist
    return list(value) if isinstance(value, tuple) else value


def _document() -> "TOMLDocument":
    import tomlkit

    file = read_config(config_path())  # the errors that name the line are ours
    return tomlkit.parse(file.text) if file is not None else tomlkit.document()


def _table(parent: Any, name: str, *, super_table: bool = False) -> Any:
    import tomlkit

    if name not in parent:
        parent[name] = tomlkit.table(is_super_table=super_table)
    return parent[name]


def _require(document: Any, name: str) -> None:
    known = list(document.get("profiles", {}))
    if name not in known:
        raise unknown_profile(name, config_path(), known)


def _write(document: "TOMLDocument", profile: str = "") -> Path:
    """Replace the file in one step, if a client would accept the profile. Raises BadInput."""
    text = f"{document.as_string().rstrip()}\n"
    path = require_path().resolve()  # a link stays one
    file = parse_config(path, text)
    if profile:
        file.profile(profile)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of mode 0600, also where the old one could be read by others: it may hold a token now.
        write_private(path, text)
    except OSError as error:
        remedy = "XDG_CONFIG_HOME names another folder for it"
        raise BadInput(f"{require_path()} cannot be written: {error.strerror}", remedy=remedy) from error
    return require_path()
