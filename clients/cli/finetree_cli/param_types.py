# SPDX-License-Identifier: Apache-2.0
"""Types of flags."""

import math
import re
from typing import Any

import click

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """Seconds: "90", "90s", "15m", "2h"."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value))
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is no duration; write 90, 90s, 15m or 2h", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class Label(click.ParamType[tuple[str, str]]):
    """A label, "key=value"."""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Key and value."""
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not key or not separator:
            self.fail(f"{value!r} is no label; write key=value", param, ctx)
        return key, text


class Amount(click.ParamType[float]):
    """A finite number from 0 on: "50", "0.5", "1e3"."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            self.fail(f"{value!r} is no number from 0 on", param, ctx)
        return number


class Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them: "lora,qlora". With `known`, only those."""

    name = "names"

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names, each once, in order."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",") if part.strip()))
        unknown = [name for name in names if self.known and name not in self.known]
        if unknown or not names:
            what = f"{unknown[0]!r} is not one of {', '.join(self.known)}" if unknown else "names nothing"
            self.fail(what, param, ctx)
        return names


class Threshold(click.ParamType[tuple[str, float]]):
    """A finding and the share of the rows that is allowed: "leak" (none), "truncated=5%"."""

    name = "threshold"

    def __init__(self, known: tuple[str, ...]) -> None:
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """The name, and the share from 0 to 1."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([a-z-]+)(?:=(\d+(?:\.\d+)?)%)?", str(value))
        if found is None or found[1] not in self._known or float(found[2] or 0) > 100:
            known = ", ".join(self._known)
            self.fail(f"{value!r} is no threshold; write NAME or NAME=5%, with one of: {known}", param, ctx)
        return found[1], float(found[2] or 0) / 100
