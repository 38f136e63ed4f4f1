# SPDX-License-Identifier: Apache-2.0
"""Types of flags."""

import math
import re
from typing import Any

import click

MOST = (1 << 53) - 1
"""Largest whole number that the contract has anywhere."""
LONGEST = 100 * 365 * 86400.0
"""Seconds that no wait and no deadline needs; narrower limits are the service's."""
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
        seconds = float(found[1]) * _UNITS[found[2]]
        if seconds > LONGEST:
            self.fail(f"{value!r} is longer than a century", param, ctx)
        return seconds


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


class Whole(click.ParamType[int]):
    """A whole number from `least` on, as far as the contract's numbers reach; narrower limits are the service's."""

    name = "integer"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        number = int(value) if re.fullmatch(r"[+-]?\d{1,20}", str(value), re.ASCII) else self._least - 1
        if not self._least <= number <= MOST:
            self.fail(f"{value!r} is no whole number from {self._least} to {MOST:,}", param, ctx)
        return number


class Amount(click.ParamType[float]):
    """A finite number from 0 on: "50", "0.5", "1e3". With `most`, no larger one."""

    name = "number"

    def __init__(self, most: float = math.inf) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        try:
            number = float(value) + 0.0  # a negative zero is none
        except ValueError:
            number = math.nan
        # Python alone reads "1_0" and digits of other scripts.
        if not re.fullmatch(r"[\d.eE+-]+", str(value), re.ASCII):
            number = math.nan
        if not 0 <= number <= self._most or number == math.inf:
            reach = "on" if self._most == math.inf else f"to {self._most:,.0f}"
            self.fail(f"{value!r} is no number from 0 {reach}", param, ctx)
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
