# SPDX-License-Identifier: Apache-2.0
"""Settings of a tower in config.json, and the parameters of the modules that towers are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LARGEST = 1 << 20
"""Largest accepted value of a setting."""


class UnreadableError(ValueError):
    """A setting that is no size, switch or list."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A part of config.json."""

    values: Mapping[str, Any]

    def size(self, name: str, default: int) -> int:
        """Read a number; of equal numbers for height and width the first. Raises UnreadableError."""
        value = self.values.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST:
            raise UnreadableError(name)
        return int(value)

    def switch(self, name: str, *, default: bool) -> bool:
        """Read a boolean. Raises UnreadableError."""
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise UnreadableError(name)
        return value

    def length(self, name: str, default: int) -> int:
        """Length of a list; `default` where the setting is absent or one number. Raises UnreadableError."""
        value = self.values.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return default
        if not isinstance(value, list) or len(value) > _LARGEST:
            raise UnreadableError(name)
        return len(value)


def linear(d_in: int, d_out: int, *, bias: bool = True) -> int:
    """Parameters of a linear layer."""
    return d_in * d_out + (d_out if bias else 0)


def layer_norm(features: int) -> int:
    """Parameters of a norm with scale and bias."""
    return 2 * features
