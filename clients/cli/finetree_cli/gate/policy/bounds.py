# SPDX-License-Identifier: Apache-2.0
"""The bounds of limits as people write them in a policy file: "50 USD", "8h", "24 GiB", "20%"."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.type import money_pb2

BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
"""Units of memory in small letters."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a metric is limited by."""

    keys: tuple[str, ...]
    """Keys of its limit beside those of every limit."""
    example: str
    """A bound in words, for messages and the schema."""
    parse: "Callable[[str], float | money_pb2.Money] | None" = None
    """Converts the text of `max` to the contract's unit; raises ValueError with what is expected."""
    pattern: str = ""
    """What `max` looks like, for editors."""


def money(text: str) -> "money_pb2.Money":
    """Parse an amount with its currency."""
    from finetree.money import parse_money

    found = parse_money(text)
    if found.units < 0 or found.nanos < 0:
        raise ValueError(f"expected an amount of at least 0, got {text!r}")
    return found


def seconds(text: str) -> float:
    """Parse a duration with its unit."""
    from finetree.durations import parse_duration

    found = parse_duration(text)
    return found.seconds + found.nanos / 1e9


def size(text: str) -> float:
    """Parse bytes with their unit."""
    found = re.fullmatch(rf"({_NUMBER.pattern})\s*([A-Za-z]+)", text.strip(), re.ASCII)
    if found is None or found[2].lower() not in BYTES:
        raise ValueError(f"expected a size such as 24 GiB, got {text!r}")
    return float(found[1]) * BYTES[found[2].lower()]


def number(unit: str = "") -> Callable[[str], float]:
    """Make a parser of numbers of at least 0, with or without their one unit."""

    def parse(text: str) -> float:
        plain = text.strip()
        if unit and plain.endswith(unit):
            plain = plain.removesuffix(unit).rstrip()
        if _NUMBER.fullmatch(plain) is None or not math.isfinite(float(plain)):
            shown = f"5 {unit}" if unit else "50000"
            raise ValueError(f"expected a number of at least 0 such as {shown}, got {text!r}")
        return float(plain)

    return parse


def percent(text: str) -> float:
    """Parse a share in percent: "20%" is 0.2."""
    found = re.fullmatch(rf"({_NUMBER.pattern})\s*%", text.strip(), re.ASCII)
    if found is None:
        raise ValueError(f"expected a share such as 20%, got {text!r}")
    return float(found[1]) / 100


_MOST = ("max", "max_increase")
_NAMES = ("allowed", "denied")
_DIGITS = r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"
MONEY_PATTERN = r"^([0-9]*\.?[0-9]+ ?[A-Z]{3}|[A-Z]{3} ?[0-9]*\.?[0-9]+)$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)? ?(min|[dhms]) ?)+$"
PERCENT_PATTERN = rf"^{_DIGITS} ?%$"
KINDS: Mapping[str, Kind] = {
    "cost": Kind(_MOST, "50 USD", money, MONEY_PATTERN),
    "monthly_cost": Kind(_MOST, "200 EUR", money, MONEY_PATTERN),
    "duration_seconds": Kind(_MOST, "8h", seconds, DURATION_PATTERN),
    "device_bytes": Kind(_MOST, "24 GiB", size, rf"^{_DIGITS} ?([kKMGT]i?B)$"),
    "fit": Kind((), ""),
    "energy_kwh": Kind(_MOST, "5 kWh", number("kWh"), rf"^{_DIGITS} ?(kWh)?$"),
    "carbon_kg": Kind(_MOST, "2 kg", number("kg"), rf"^{_DIGITS} ?(kg)?$"),
    "confidence": Kind(("min",), "medium"),
    "examples": Kind(_MOST, "100000", number(), rf"^{_DIGITS}$"),
    "tokens": Kind(_MOST, "50000000", number(), rf"^{_DIGITS}$"),
    "method": Kind(_NAMES, "[lora, qlora]"),
    "model": Kind(_NAMES, '["qwen*", "mistralai/*"]'),
    "model_license": Kind(_NAMES, "[apache-2.0, mit]"),
    "provider": Kind(_NAMES, "[aws, owned]"),
}
"""Metrics of a policy file, which are the contract's PolicyMetric in small letters."""
