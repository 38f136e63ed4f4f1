# SPDX-License-Identifier: Apache-2.0
"""Numbers, times, money and intervals as text."""

from finetree_api.types.v1 import evidence_pb2

_UNITS = (("seconds", 1, 90.0), ("minutes", 60, 5400.0), ("hours", 3600, 2 * 86400.0), ("days", 86400, 1000 * 86400.0))
"""Units of time, the seconds of each, and the seconds up to which it is used."""
_YEAR = 365 * 86400
_CENT = 0.01


def time(interval: evidence_pb2.Interval) -> str:
    """Format seconds in a suitable unit: 49.4 (37.3 to 77.1) minutes."""
    found = next(((unit, size) for unit, size, most in _UNITS if interval.expected < most), ("years", _YEAR))
    return f"{scaled(interval, found[1])} {found[0]}"


def money(interval: evidence_pb2.Interval) -> str:
    """Format an amount: 0.29 (0.22 to 0.45), or less than 0.01."""
    return ranged(interval, ",.2f") if interval.expected >= _CENT else f"less than {max(_CENT, interval.high):.2f}"


def scaled(interval: evidence_pb2.Interval, unit: float) -> str:
    """Format an interval in multiples of a unit, to one decimal."""
    return ranged(interval, ",.1f", unit)


def ranged(interval: evidence_pb2.Interval, form: str, unit: float = 1) -> str:
    """Format an interval in multiples of a unit: 19.3 (17.9 to 20.8), or 19.3 where its ends are equal."""
    expected = format(interval.expected / unit, form)
    low, high = format(interval.low / unit, form), format(interval.high / unit, form)
    return expected if low == high else f"{expected} ({low} to {high})"


def gpu(gb: float) -> str:
    """Name a GPU by its memory: "a 24 GB GPU", "an 8 GB GPU"."""
    size = f"{gb:g}"
    article = "an" if size.startswith("8") or size in ("11", "18") else "a"
    return f"{article} {size} GB GPU"


def decimal(number: float) -> str:
    """Format a number to two decimals, without an exponent or trailing zeros: "50", "0.25", "1000000"."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """Format a time in a suitable unit: "45 s", "12 min", "3.5 h", "12 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    days = seconds / 86400
    return f"{seconds / 3600:.1f} h" if days < 10 else f"{days:.0f} days" if days < 1000 else f"{days / 365:,.0f} years"
