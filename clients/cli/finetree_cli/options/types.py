# SPDX-License-Identifier: Apache-2.0
"""Types of option values."""

import math
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.type import money_pb2


MOST = (1 << 53) - 1
"""Largest whole number in the contract."""
METHODS = ("full", "lora", "qlora", "prefix", "adapter")
"""Methods by the names of their fields in a RunSpec, as flags and policy files have them."""


class Duration(click.ParamType[float]):
    """A duration in seconds, with its unit: "90s", "15m", "8h", "1h30m"."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds; a bare number is refused, since it could be hours as well."""
        from finetree.durations import parse_duration

        if isinstance(value, float):
            return value
        try:
            found = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        seconds = found.seconds + found.nanos / 1e9
        if not seconds:
            self.fail(f"{value!r} is no time at all; write a duration such as 30m or 8h", param, ctx)
        return seconds


class Label(click.ParamType[tuple[str, str]]):
    """A label, "key=value"."""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return key and value."""
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not key or not separator:
            self.fail(f"{value!r} is no label; write key=value", param, ctx)
        return key, text


class Target(click.ParamType[tuple[str, str]]):
    """Trained weights under a name, "name=JOB"."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the name and what it stands for."""
        if isinstance(value, tuple):
            return value
        name, separator, weights = str(value).partition("=")
        if not name or not separator or not weights:
            self.fail(f"{value!r} is no target; write NAME=JOB, NAME=JOB@STEP or NAME=path:FOLDER", param, ctx)
        return name, weights


class LabelChange(click.ParamType[tuple[str, str | None]]):
    """A label to set, "key=value", or to remove, "key-"."""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str | None]:
        """Return key and value; None as the value removes the label."""
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if key and separator:
            return key, text
        if len(key) < 2 or not key.endswith("-"):
            self.fail(f"{value!r} changes no label; write key=value, or key- to remove it", param, ctx)
        return key.removesuffix("-"), None


class Whole(click.ParamType[int]):
    """A whole number from `least` to the contract's largest; the services have narrower limits."""

    name = "integer"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        number = int(value) if re.fullmatch(r"[+-]?\d{1,20}", str(value), re.ASCII) else self._least - 1
        if not self._least <= number <= MOST:
            self.fail(f"{value!r} is no whole number from {self._least} to {MOST:,}", param, ctx)
        return number


class Amount(click.ParamType[float]):
    """A finite number of at least 0 ("50", "0.5", "1e3") and at most `most`."""

    name = "number"

    def __init__(self, most: float = math.inf) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        try:
            number = float(value) + 0.0  # turns -0.0 into 0.0
        except ValueError:
            number = math.nan
        # float() also accepts "1_0" and digits of other scripts.
        if not re.fullmatch(r"[\d.eE+-]+", str(value), re.ASCII):
            number = math.nan
        if not 0 <= number <= self._most or number == math.inf:
            limits = "of at least 0" if self._most == math.inf else f"from 0 to {self._most:,.0f}"
            self.fail(f"{value!r} is no number {limits}", param, ctx)
        return number


class MoneyAmount(click.ParamType["money_pb2.Money"]):
    """An amount of money: "50" (in US dollars), "0.30 EUR"."""

    name = "money"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "money_pb2.Money":
        """Return the amount."""
        from finetree.money import parse_money

        text = str(value).strip()
        try:
            return parse_money(text if text[-1:].isalpha() else f"{text} USD")
        except ValueError:
            self.fail(f"{value!r} is no amount; write 50 (US dollars) or '0.30 EUR'", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them: "lora,qlora"; only those in `known`, if there are any."""

    name = "names"

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names in their order, each once."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",") if part.strip()))
        unknown = [name for name in names if self.known and name not in self.known]
        if unknown or not names:
            problem = f"{unknown[0]!r} is not one of {', '.join(self.known)}" if unknown else "no name is given"
            self.fail(problem, param, ctx)
        return names


class Threshold(click.ParamType[tuple[str, float]]):
    """A finding and the share of rows that may have it: "leak" (none), "truncated=5%"."""

    name = "threshold"

    def __init__(self, known: tuple[str, ...]) -> None:
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Return the name and the share from 0 to 1."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([a-z-]+)(?:=(\d+(?:\.\d+)?)%)?", str(value))
        if found is None or found[1] not in self._known or float(found[2] or 0) > 100:
            known = ", ".join(self._known)
            self.fail(f"{value!r} is no threshold; write NAME or NAME=5%, where NAME is one of: {known}", param, ctx)
        return found[1], float(found[2] or 0) / 100


class Day(click.ParamType[str]):
    """A day: "2026-11-28"."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the day as it was written."""
        from datetime import date

        try:
            return date.fromisoformat(str(value)).isoformat()
        except ValueError:
            self.fail(f"{value!r} is no day; write it as 2026-11-28", param, ctx)


def today() -> str:
    """Return the present day in UTC, ISO 8601."""
    from datetime import UTC, datetime

    return datetime.now(UTC).date().isoformat()
