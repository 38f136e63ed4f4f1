# SPDX-License-Identifier: Apache-2.0
"""The settings of a client by name, as a profile and the environment write them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SWITCHES = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Key:
    """A setting.

    Attributes:
        name: its key in a profile; FINETREE_ and the name in capitals is its environment variable.
        meaning: what it is, in one line.
        check: reads a value of the file; raises ValueError with what was expected.
        parse: reads a text, as the environment has it; raises ValueError likewise.
        secret: whether it is never shown.
    """

    name: str
    meaning: str
    check: Callable[[Any], Any]
    parse: Callable[[str], Any]
    secret: bool = False

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return f"FINETREE_{self.name.upper()}"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text, got {value!r}")
    return value.strip()


def _secret(value: Any) -> str:
    # The value is not repeated: this message is shown and logged.
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a text that is not empty")
    return value.strip()


def _path(value: Any) -> Path:
    return Path(_text(value)).expanduser()


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r}")  # noqa: TRY004 - one kind of error for a wrong value
    return value


def _parse_switch(text: str) -> bool:
    if text.strip().lower() not in SWITCHES:
        raise ValueError(f"expected true or false, got {text!r}")
    return SWITCHES[text.strip().lower()]


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"expected seconds, more than 0, got {value!r}")
    return float(value)


def _parse_seconds(text: str) -> float:
    try:
        return _seconds(float(text))
    except ValueError:
        raise ValueError(f"expected seconds, more than 0, got {text!r}") from None


def _command(value: Any) -> tuple[str, ...]:
    words = shlex.split(value) if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"expected a command as a text or a list of words, got {value!r}")
    return tuple(words)


def _key(name: str, meaning: str, check: Callable[[Any], Any], parse: Callable[[str], Any] | None = None) -> Key:
    return Key(name, meaning, check, parse or check, secret=check is _secret)


KEYS: Mapping[str, Key] = {
    key.name: key
    for key in (
        _key("address", "one address of all three services: host:port, http://…, https://… or unix:…", _text),
        _key("recommender_address", "the recommender's own address", _text),
        _key("estimator_address", "the estimator's own address", _text),
        _key("trainer_address", "the trainer's own address", _text),
        _key("project", "project of datasets and jobs", _text),
        _key("token", "bearer token", _secret),
        _key("token_file", "file with the bearer token, read again when it changes", _path),
        _key("token_command", "command that prints the bearer token, run again when that expires", _command),
        _key("tls", "whether to encrypt, where the address does not say so", _switch, _parse_switch),
        _key("tls_ca", "PEM file of the authorities to trust", _path),
        _key("tls_certificate", "PEM file of this client's certificate", _path),
        _key("tls_key", "PEM file of this client's private key", _path),
        _key("tls_server_name", "name that the server's certificate must carry", _text),
        _key("timeout", "seconds for every unary call, in place of the default of each", _seconds, _parse_seconds),
    )
}
"""Every setting that a profile and the environment may have, in the order in which they are shown."""
TOKENS = ("token", "token_file", "token_command")
"""Keys of which a profile, or the environment, has one at most."""
