# SPDX-License-Identifier: Apache-2.0
"""What observed runs change in an estimate: factors on the step time and on the memory that is not counted exactly."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from finetree_estimator.intervals import Interval, Kind, Source, together
from finetree_estimator.remarks import Remark

_ENDS_KEPT = "; no upper end is below that without them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """Measured over predicted, as learned from so many observations; 0 of them change nothing.

    An interval's half-widths (natural logarithms) become sqrt((1 - weight) own^2 + weight spread^2): the formulas' own
    width at weight 0, the width of what was observed at weight 1.
    """

    value: float = 1.0
    weight: float = 0.0
    spread: float = 0.0
    observations: int = 0

    def apply(self, interval: Interval, *sources: Source) -> Interval:
        """The interval with its expected value corrected and its width as much as is known."""
        if not self.observations or interval.expected <= 0:
            return interval
        expected = interval.expected * self.value
        low = expected * math.exp(-self._width(interval.expected / interval.low)) if interval.low > 0 else 0.0
        high = expected * math.exp(self._width(interval.high / interval.expected))
        joined = together(interval.sources, sources)
        return Interval(low, expected, high, sources=joined, coverage=interval.coverage)

    def _width(self, ratio: float) -> float:
        own = math.log(max(1.0, ratio))
        return math.sqrt((1.0 - self.weight) * own * own + self.weight * self.spread * self.spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What is known of a device; the default changes nothing."""

    device: str = ""
    date: str = ""
    """Day of the newest observation."""
    step_time: Factor = field(default_factory=Factor)
    memory: Factor = field(default_factory=Factor)

    @property
    def source(self) -> Source:
        """What the corrected numbers rest on besides the formulas."""
        return Source(Kind.MEASURED, "observed-runs", self.device, date=self.date)

    def remarks(self) -> Iterator[Remark]:
        """One for each factor."""
        factors = (
            ("STEP_TIME_CORRECTED", "step time", self.step_time, ""),
            ("MEMORY_CORRECTED", "memory that is not counted exactly", self.memory, _ENDS_KEPT),
        )
        for code, what, factor, more in factors:
            if factor.observations:
                runs = "1 run" if factor.observations == 1 else f"{factor.observations} runs"
                learned = f"learned from {runs} on {self.device}"
                yield Remark(code, f"{what} is multiplied by {factor.value:.3g}, {learned}{more}", "spec.hardware")


UNCORRECTED = Correction()
"""Nothing was observed."""
