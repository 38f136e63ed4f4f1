# SPDX-License-Identifier: Apache-2.0
"""Whether a peak fits into a device, and by how much."""

from dataclasses import dataclass
from enum import Enum

from finetree_estimator.catalog.names import GIB
from finetree_estimator.intervals import Interval, probability_below


class Verdict(Enum):
    """The names are those of the contract's FitVerdict."""

    UNSPECIFIED = "unknown"
    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True, slots=True)
class Fit:
    """A verdict and what it was found from, in bytes."""

    verdict: Verdict
    peak: Interval
    usable_bytes: int

    @property
    def headroom_bytes(self) -> int:
        """Usable less expected bytes; negative when it does not fit, 0 when the device's memory is unknown."""
        return self.usable_bytes - round(self.peak.expected) if self.usable_bytes > 0 else 0

    @property
    def probability(self) -> float:
        """Probability of fitting, 0 to 1; 0 when the device's memory is unknown."""
        return probability_below(self.peak, self.usable_bytes)

    @property
    def summary(self) -> str:
        """One line for people."""
        usable, expected, high = self.usable_bytes, self.peak.expected, self.peak.high
        if usable <= 0:
            return f"needs about {expected / GIB:.1f} GiB; the device's memory is unknown"
        headroom = self.headroom_bytes
        left, margin = abs(headroom), "to spare" if headroom >= 0 else "too much"
        needs = f"needs about {expected / GIB:.1f} GiB (up to {high / GIB:.1f} GiB) of {usable / GIB:.1f} GiB"
        return f"{self.verdict.value}: {needs}, {left / GIB:.1f} GiB ({left / usable:.0%}) {margin}"


def judge(peak: Interval, usable_bytes: int) -> Fit:
    """FITS when the whole interval is inside, TIGHT when only the expected value is."""
    verdict = Verdict.DOES_NOT_FIT
    if usable_bytes <= 0:
        verdict = Verdict.UNSPECIFIED
    elif peak.high <= usable_bytes:
        verdict = Verdict.FITS
    elif peak.expected <= usable_bytes:
        verdict = Verdict.TIGHT
    return Fit(verdict, peak, usable_bytes)
