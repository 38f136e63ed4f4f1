# SPDX-License-Identifier: Apache-2.0
"""Which value a setting has, and where it comes from: arguments, then FINETREE_* variables, the profile, defaults.

Addresses are looked up for each service, in each place the service's own before the one of all three. A profile's
token and TLS settings belong to the servers of that profile: a service whose address is from an argument or the
environment does not get them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from finetree.config.file import DEFAULT_PROFILE, ConfigFile, config_path, read_config, unknown_profile
from finetree.config.keys import KEYS, TOKENS
from finetree.config.token import Fixed, InFile, InProfile, OfCommand, OfFunction, Token, TokenSource, Variable
from finetree.errors import InvalidArgument, Violation

Service = Literal["recommender", "estimator", "trainer"]
SERVICES: tuple[Service, ...] = ("recommender", "estimator", "trainer")
DEFAULT_ADDRESS: Mapping[Service, str] = {
    "recommender": "127.0.0.1:50051",
    "estimator": "127.0.0.1:50052",
    "trainer": "127.0.0.1:50053",
}
DEFAULT_PROJECT = "default"
Level = Literal["argument", "environment", "profile", "default"]
PROFILE = "FINETREE_PROFILE"
"""Environment variable that names the profile."""
MASK = "********"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and its origin: "argument", a variable, the file (with the line, if asked for) or "default"."""

    key: str
    value: Any
    origin: str
    level: Level

    def shown(self) -> str:
        """The value as text, with secrets masked."""
        key = KEYS.get(self.key)
        if key is not None and key.secret:
            return MASK
        if isinstance(self.value, bool):
            return str(self.value).lower()
        return shlex.join(self.value) if isinstance(self.value, tuple) else f"{self.value}"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a client, each with its origin.

    Attributes:
        profile: name of the profile; empty for none.
        addresses: of each service.
        found: every other setting that has a value, by its key; of the token's keys the one that holds.
    """

    profile: Setting
    addresses: Mapping[Service, Setting]
    found: Mapping[str, Setting]

    def applies(self, key: str, service: Service) -> bool:
        """Whether a setting of the token or of TLS is used with a service."""
        setting = self.found.get(key)
        if setting is None:
            return False
        return setting.level != "profile" or self.addresses[service].level in ("profile", "default")

    def get(self, key: str, service: Service) -> Any:
        """Value of a setting of TLS for a service; None without one."""
        return self.found[key].value if self.applies(key, service) else None

    @property
    def token(self) -> Setting | None:
        """The token's setting, whichever key it has."""
        return next((self.found[key] for key in TOKENS if key in self.found), None)


def resolve(arguments: Mapping[str, Any], *, profile: str | None = None, lines: bool = False) -> Settings:
    """Look every setting up.

    Args:
        arguments: what the caller gave, by key; None and "" mean that it is not given.
        profile: name of a profile; None means FINETREE_PROFILE, else the one that the file chooses, else "default" if
            there is one of that name; "" means none.
        lines: whether origins in the file have their line, which takes a while to find.

    Raises:
        InvalidArgument: INVALID_CONFIG: a mistake in the file, with its line; INVALID_OPTION: one in the environment.
    """
    file = None if profile == "" else read_config(config_path())
    chosen = _profile(profile, file, lines=lines)
    places: tuple[Callable[[str], Setting | None], ...] = (
        lambda key: _argument(arguments, key),
        _variable,
        _settings_of(chosen, file, lines=lines),
    )
    addresses = {service: _address(service, places) for service in SERVICES}
    plain = [key for key in KEYS if not key.endswith("address") and key not in TOKENS]
    found = {key: setting for key in plain if (setting := _first(key, places)) is not None}
    for place in places:
        given = [setting for key in TOKENS if (setting := place(key)) is not None]
        if len(given) > 1:
            one, other = given[0], given[1]
            raise invalid(other.key, f"{one.origin} gives a token and so does {other.origin}; keep one of them")
        if given:
            found[given[0].key] = given[0]
            break
    found.setdefault("project", Setting("project", DEFAULT_PROJECT, "default", "default"))
    return Settings(chosen, addresses, found)


def token_of(settings: Settings) -> Token | None:
    """The token that settings describe, not read yet."""
    setting = settings.token
    return None if setting is None else Token(_source(setting, settings.profile))


def invalid(name: str, text: str) -> InvalidArgument:
    """Make the error for a wrong option of a client."""
    return InvalidArgument(f"{name}: {text}", reason="INVALID_OPTION", violations=(Violation(name, text),))


def _source(setting: Setting, profile: Setting) -> TokenSource:
    if setting.key == "token_file":
        return InFile(setting.value)
    if setting.key == "token_command":
        return OfCommand(setting.value)
    if setting.level == "environment":
        return Variable(setting.origin)
    if setting.level == "profile" and (path := config_path()) is not None:
        return InProfile(path, profile.value)
    return OfFunction(setting.value) if callable(setting.value) else Fixed(setting.value)


def _profile(given: str | None, file: ConfigFile | None, *, lines: bool) -> Setting:
    """Choose the profile; its setting has the empty value for none."""
    path = config_path()
    known = file.profiles if file is not None else []
    named = os.environ.get(PROFILE, "")
    if given is not None:
        choice = Setting("profile", given, "argument", "argument")
    elif named:
        choice = Setting("profile", named, PROFILE, "environment")
    elif file is not None and file.chosen:
        choice = Setting("profile", file.chosen, _place(file, ["profile"], lines=lines), "profile")
    else:
        choice = Setting("profile", DEFAULT_PROFILE if DEFAULT_PROFILE in known else "", "default", "default")
    if choice.value and choice.value not in known:
        raise unknown_profile(choice.value, path, known)
    return choice


def _settings_of(chosen: Setting, file: ConfigFile | None, *, lines: bool) -> Callable[[str], Setting | None]:
    values = file.profile(chosen.value) if file is not None and chosen.value else {}

    def look_up(key: str) -> Setting | None:
        if file is None or key not in values:
            return None
        return Setting(key, values[key], _place(file, ["profiles", chosen.value, key], lines=lines), "profile")

    return look_up


def _place(file: ConfigFile, path: list[str], *, lines: bool) -> str:
    return f"{file.path}:{file.line(path)}" if lines else f"{file.path}"


def _argument(arguments: Mapping[str, Any], key: str) -> Setting | None:
    value = arguments.get(key)
    return None if value is None or value == "" else Setting(key, value, "argument", "argument")


def _variable(key: str) -> Setting | None:
    name = KEYS[key].variable
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        return Setting(key, KEYS[key].parse(text), name, "environment")
    except ValueError as error:
        raise invalid(name, str(error)) from None


def _address(service: Service, places: tuple[Callable[[str], Setting | None], ...]) -> Setting:
    for place in places:
        found = place(f"{service}_address") or place("address")
        if found is not None:
            return found
    return Setting(f"{service}_address", DEFAULT_ADDRESS[service], "default", "default")


def _first(key: str, places: tuple[Callable[[str], Setting | None], ...]) -> Setting | None:
    return next((found for place in places if (found := place(key)) is not None), None)
