# SPDX-License-Identifier: Apache-2.0
"""What observed runs say of each device, robustly: medians of logarithms of measured over predicted.

A ratio is treated as its logarithm, since a device is twice as fast as easily as it is half as fast. Points far from
the median in units of the median absolute deviation are left out; what remains is drawn towards "as predicted" with
the weight of a few observations. The same points give the same factors, in whatever order they came.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median

from finetree_api.types.v1 import run_spec_pb2, training_pb2

from finetree_estimator.catalog.versions import Part
from finetree_estimator.evidence.corrections import UNCORRECTED, Correction, Factor
from finetree_estimator.spec.resolve import device_key, model_family

PRIOR_STRENGTH = 2.0
"""Observations that "as predicted" counts for: one run moves an estimate a third of the way, ten by 83 %. Runs of one
configuration differ by 10-30 % in speed from day to day, about as much as a device's rate is uncertain, so each
observation is worth about one unit of prior; two are taken because the first runs on a machine are often odd ones."""
RECENT = 100
"""Newest observations of a device that count: drivers and libraries change."""
FAMILY_POINTS = 5
"""Observations of a model family on a device from which on it has factors of its own."""
FEW = 3
"""Below so many observations no median protects: each counts for a factor of two at most."""
SPREAD_FLOOR = 0.03
"""Least standard deviation (logarithm) that is believed: peaks repeat to 0.1 %, but not over other batches and rows."""
ODD_DEVIATIONS = 3.5
"""Distance from the median, in standard deviations by the median absolute deviation, beyond which a point is left out
(Iglewicz and Hoaglin 1993)."""
ODD_FLOOR = math.log(1.3)
"""Points nearer to the median than this are never left out."""
MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution whose median absolute deviation is 1."""
HALF_WIDTH_90 = 1.645
"""Standard deviations on either side that hold 90 % of a normal distribution."""
STEP_TIME_LIMITS = (0.25, 4.0)
MEMORY_LIMITS = (0.5, 2.0)
"""Factors beyond these are not believed: something else is wrong then, such as the machine's name."""
UNSEEN_FAMILY = 0.5
"""Share of the weight that a device's observations have for the width of a model family that is not among them."""
UNOBSERVED_WIDTH = math.log(1.5)
"""Half-width that stands for the formulas' own where a factor is shown by itself."""


NOTHING = Part("calibration-empty", hashlib.sha256(b"").hexdigest(), "")
"""The revision where nothing was learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An observed run with what was predicted for it without calibration. Bytes and seconds; 0 where there is none."""

    job: str
    attempt: int
    device: str
    family: str
    """Model family; empty when unknown."""
    method: str
    predicted_step: float
    measured_step: float
    counted_bytes: float
    """Of the predicted peak, what is counted exactly."""
    predicted_bytes: float
    measured_bytes: float
    end_time: int
    """Microseconds since 1970."""
    digest: str
    """SHA-256 of the observation."""

    @property
    def order(self) -> tuple[int, str, int]:
        """Newest last; the same for the same points."""
        return self.end_time, self.job, self.attempt

    @property
    def step_ratio(self) -> float | None:
        """Logarithm of measured over predicted seconds of a step."""
        return _log_ratio(self.measured_step, self.predicted_step)

    @property
    def memory_ratio(self) -> float | None:
        """Logarithm of measured over predicted peak, both beyond what is counted.

        A measured peak below what is counted stands for the lowest factor that is believed.
        """
        predicted = self.predicted_bytes - self.counted_bytes
        measured = max(self.measured_bytes - self.counted_bytes, MEMORY_LIMITS[0] * predicted)
        return _log_ratio(measured, predicted) if self.measured_bytes > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of a device, or of a model family on it."""

    device: str
    family: str
    step_time: Factor
    memory: Factor
    observations: int
    odd: frozenset[tuple[str, int]]
    """(job, attempt) of what was left out."""
    date: str
    """Day of the newest observation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Everything learned. The default is that nothing was."""

    points: tuple[Point, ...] = ()
    """Oldest first."""
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """By device and family; the family "" stands for all of them."""
    part: Part = NOTHING
    _seen: frozenset[tuple[str, str]] = frozenset()

    def correction(self, device: str, family: str) -> Correction:
        """What to correct in an estimate of a run on this device."""
        entry = self.entries.get((device, family)) or self.entries.get((device, ""))
        if entry is None:
            return UNCORRECTED
        step, memory = entry.step_time, entry.memory
        if (device, family) not in self._seen:
            step, memory = _less_sure(step), _less_sure(memory)
        return Correction(device=device, date=entry.date, step_time=step, memory=memory)

    def is_odd(self, point: Point) -> bool:
        """Whether a point was left out of the factors that it belongs to."""
        entry = self.entries.get((point.device, point.family)) or self.entries[(point.device, "")]
        return (point.job, point.attempt) in entry.odd


EMPTY = Calibration()
"""Nothing was learned."""


def learn(points: Iterable[Point]) -> Calibration:
    """What the points say, in whatever order they come."""
    ordered = tuple(sorted(points, key=lambda point: point.order))
    if not ordered:
        return EMPTY
    by_device: dict[str, list[Point]] = defaultdict(list)
    for point in ordered:
        by_device[point.device].append(point)
    entries: dict[tuple[str, str], Entry] = {}
    for device, group in sorted(by_device.items()):
        entries |= _device_entries(device, group)
    seen = frozenset((point.device, point.family) for point in ordered if point.family)
    return Calibration(points=ordered, entries=entries, part=_part(ordered), _seen=seen)


def correction_for(spec: run_spec_pb2.RunSpec, calibration: Calibration) -> Correction:
    """What observed runs correct in an estimate of a spec.

    Only this suite's runs are observed, and so corrected. Raises UnknownNameError for an unknown accelerator.
    """
    ours = spec.program.program in (training_pb2.TRAINING_PROGRAM_UNSPECIFIED, training_pb2.TRAINING_PROGRAM_FINETREE)
    if not ours or not calibration.points:
        return UNCORRECTED
    return calibration.correction(device_key(spec.hardware), model_family(spec.model))


def interval_of(factor: Factor) -> tuple[float, float, float]:
    """Low, expected and high of the factor that the next run will show, with 90 % coverage."""
    width = math.sqrt((1 - factor.weight) * UNOBSERVED_WIDTH**2 + factor.weight * factor.spread**2)
    return factor.value * math.exp(-width), factor.value, factor.value * math.exp(width)


def _device_entries(device: str, group: Sequence[Point]) -> dict[tuple[str, str], Entry]:
    entries = {(device, ""): _entry(device, "", group, prior=UNCORRECTED)}
    for family in sorted({point.family for point in group if point.family}):
        own = [point for point in group if point.family == family]
        if len(own) >= FAMILY_POINTS:
            # What the other families say is the prior: with its own points in it, these would count twice.
            others = [point for point in group if point.family != family]
            prior = _entry(device, "", others, prior=UNCORRECTED) if others else UNCORRECTED
            entries[(device, family)] = _entry(device, family, own, prior=prior)
    return entries


def _entry(device: str, family: str, group: Sequence[Point], *, prior: Entry | Correction) -> Entry:
    group = group[-RECENT:]
    steps = {(point.job, point.attempt): ratio for point in group if (ratio := point.step_ratio) is not None}
    peaks = {(point.job, point.attempt): ratio for point in group if (ratio := point.memory_ratio) is not None}
    odd_steps, odd_peaks = _odd(steps), _odd(peaks)
    kept_steps = [ratio for key, ratio in steps.items() if key not in odd_steps]
    kept_peaks = [ratio for key, ratio in peaks.items() if key not in odd_peaks]
    return Entry(
        device=device,
        family=family,
        step_time=_factor(kept_steps, prior.step_time, STEP_TIME_LIMITS),
        memory=_factor(kept_peaks, prior.memory, MEMORY_LIMITS),
        observations=len(group),
        odd=odd_steps | odd_peaks,
        date=_day(group[-1]),
    )


def _odd(ratios: dict[tuple[str, int], float]) -> frozenset[tuple[str, int]]:
    """Keys of ratios that lie too far from the others."""
    if len(ratios) <= FEW:
        return frozenset()
    middle = median(ratios.values())
    limit = max(ODD_FLOOR, ODD_DEVIATIONS * MAD_TO_SIGMA * _deviation(list(ratios.values()), middle))
    return frozenset(key for key, ratio in ratios.items() if abs(ratio - middle) > limit)


def _factor(ratios: Sequence[float], prior: Factor, limits: tuple[float, float]) -> Factor:
    """The factor that the ratios (logarithms) say, drawn towards a prior; the prior where there are none."""
    count, towards = len(ratios), math.log(prior.value)
    if not count:
        return prior
    if count < FEW:
        ratios = [min(max(ratio, towards - math.log(2)), towards + math.log(2)) for ratio in ratios]
    weight = count / (count + PRIOR_STRENGTH)
    middle = median(ratios)
    value = math.exp(towards + weight * (middle - towards))
    # The deviation of a few points is too small on average; twice the standard error of the median is added.
    sigma = max(SPREAD_FLOOR, MAD_TO_SIGMA * _deviation(ratios, middle) * (1 + 2 / count))
    return Factor(
        value=min(max(value, limits[0]), limits[1]),
        weight=weight,
        spread=HALF_WIDTH_90 * sigma,
        observations=count,
    )


def _deviation(values: Sequence[float], middle: float) -> float:
    """Median absolute deviation."""
    return median(abs(value - middle) for value in values)


def _less_sure(factor: Factor) -> Factor:
    return replace(factor, weight=factor.weight * UNSEEN_FAMILY)


def _log_ratio(measured: float, predicted: float) -> float | None:
    return math.log(measured / predicted) if measured > 0 and predicted > 0 else None


def _part(points: Sequence[Point]) -> Part:
    """Name, hash and date of what was learned; the hash does not depend on the order of arrival."""
    digests = sorted(f"{point.job}\0{point.attempt}\0{point.digest}" for point in points)
    sha256 = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return Part(f"calibration-{sha256[:12]}", sha256, _day(points[-1]))


def _day(point: Point) -> str:
    return datetime.fromtimestamp(point.end_time // 1_000_000, tz=UTC).date().isoformat()
