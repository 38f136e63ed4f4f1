# SPDX-License-Identifier: Apache-2.0
"""Whether a peak fits into a device, and by how much."""

from dataclasses import dataclass
from enum import Enum

from finetree_estimator.intervals import Interval, probability_below


class Verdict(Enum):
    """The names are those of the contract's FitVerdict."""

    UNSPECIFIED = "unknown"
    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True, slots=True)
class Fit:
    """Head-room in bytes: usable less expected; negative when it does not fit. `probability` is that of fitting."""

    verdict: Verdict
    headroom_bytes: int
    summary: str
    probability: float = 0.0


def judge(peak: Interval, usable_bytes: int) -> Fit:
    """FITS when the whole interval is inside, TIGHT when only the expected value is."""
    if usable_bytes <= 0:
        return Fit(Verdict.UNSPECIFIED, 0, f"needs about {_gib(peak.expected)}; the device's memory is unknown")
    headroom = usable_bytes - round(peak.expected)
    verdict = Verdict.DOES_NOT_FIT
    if peak.high <= usable_bytes:
        verdict = Verdict.FITS
    elif peak.expected <= usable_bytes:
        verdict = Verdict.TIGHT
    margin = "to spare" if headroom >= 0 else "too much"
    summary = (
        f"{verdict.value}: needs about {_gib(peak.expected)} (up to {_gib(peak.high)}) of {_gib(usable_bytes)}, "
        f"{_gib(abs(headroom))} ({abs(headroom) / usable_bytes:.0%}) {margin}"
    )
    return Fit(verdict, headroom, summary, probability_below(peak, usable_bytes))


def _gib(size: float) -> str:
    return f"{size / 1024**3:.1f} GiB"
