# SPDX-License-Identifier: Apache-2.0
"""Whether a peak fits into a device, and by how much."""

from dataclasses import dataclass
from enum import Enum

from finetree_estimator.intervals import Interval


class Verdict(Enum):
    """The names are those of the contract's FitVerdict."""

    UNSPECIFIED = "unknown"
    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True, slots=True)
class Fit:
    """Head-room in bytes: usable less expected; negative when it does not fit."""

    verdict: Verdict
    headroom_bytes: int
    summary: str


def judge(peak: Interval, usable_bytes: int) -> Fit:
    """FITS when the whole interval is inside, TIGHT when only the expected value is."""
    if usable_bytes <= 0:
        return Fit(Verdict.UNSPECIFIED, 0, f"needs about {_gib(peak.expected)}; the device's memory is unknown")
    headroom = usable_bytes - round(peak.expected)
    needs = f"needs about {_gib(peak.expected)} (up to {_gib(peak.high)}) of {_gib(usable_bytes)}"
    if peak.high <= usable_bytes:
        return Fit(Verdict.FITS, headroom, f"fits: {needs}")
    if peak.expected <= usable_bytes:
        return Fit(Verdict.TIGHT, headroom, f"tight: {needs}")
    return Fit(Verdict.DOES_NOT_FIT, headroom, f"does not fit: {needs}")


def _gib(size: float) -> str:
    return f"{size / 1024**3:.1f} GiB"
