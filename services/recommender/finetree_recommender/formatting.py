# SPDX-License-Identifier: Apache-2.0
"""Numbers and times as text."""


def gpu(gb: float) -> str:
    """Name a GPU by its memory: "a 24 GB GPU", "an 8 GB GPU"."""
    size = f"{gb:g}"
    article = "an" if size.startswith("8") or size in ("11", "18") else "a"
    return f"{article} {size} GB GPU"


def decimal(number: float) -> str:
    """Format a number to two decimals, without an exponent or trailing zeros: "50", "0.25", "1000000"."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """Format a time in a suitable unit: "45 s", "12 min", "3.5 h", "8.5 days", "12 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    days = seconds / 86400
    if days < 2:
        return f"{decimal(round(seconds / 3600, 1))} h"
    if days < 1000:
        return f"{days:.0f} days" if days >= 10 else f"{decimal(round(days, 1))} days"
    return f"{days / 365:,.0f} years"
