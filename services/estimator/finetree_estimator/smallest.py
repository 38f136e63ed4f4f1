# SPDX-License-Identifier: Apache-2.0
"""The smallest accelerators of the catalogue on which a run fits, alone and several of them sharing everything."""

from dataclasses import dataclass, replace
from functools import cache

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.errors import DomainError

from finetree_estimator.accelerators import AcceleratorEntry, accelerator, supported
from finetree_estimator.engine import fit_of
from finetree_estimator.fit import Verdict
from finetree_estimator.intervals import Interval
from finetree_estimator.lookups import Knowledge, read_device
from finetree_estimator.prices import PriceBook
from finetree_estimator.reading import Reading, correction_of, read
from finetree_estimator.run import Run

COUNTS = (1, 2, 4, 8)
"""Devices that are tried: one machine's, in powers of two."""
NEAR = 0.8
"""Share of the peak on another accelerator from which on one is tried; a peak depends little on the accelerator."""


@dataclass(frozen=True, slots=True)
class Option:
    """Hardware on which a run fits; sizes in bytes, of one device."""

    accelerator: str
    """Catalogue name."""
    count: int
    peak: Interval
    usable_bytes: int
    verdict: Verdict

    @property
    def sharding(self) -> rs.Sharding.ValueType:
        """What the devices share: everything, where there are several."""
        return sharding_of(self.count)


def sharding_of(count: int) -> rs.Sharding.ValueType:
    """What so many devices share in an option."""
    return rs.SHARDING_FULL if count > 1 else rs.SHARDING_REPLICATED


def search(request: pb.EstimateRunRequest, reading: Reading, knowledge: Knowledge) -> list[Option]:
    """For each number of devices the smallest memory class that fits, if no fewer devices of its size do.

    Of a class the accelerator with the lowest price for its speed is named. None for a run on a CPU.
    """
    if reading.run.device.is_cpu:
        return []
    options: list[Option] = []
    bound = float("inf")
    for count in COUNTS:
        option = _smallest(request, reading, knowledge, count, bound)
        if option is not None:
            options.append(option)
            bound = _class_of(option.accelerator)
    return options


def _smallest(
    request: pb.EstimateRunRequest, reading: Reading, knowledge: Knowledge, count: int, bound: float
) -> Option | None:
    """The smallest class below `bound` (GB as sold) of which so many devices do."""
    try:
        place = _Place.of(request, reading, knowledge, count)
    except DomainError:
        # The spec cannot be run on so many devices.
        return None
    near = NEAR * fit_of(place.run)[0].device.high
    for entry in _ascending(knowledge.prices):
        if entry.marketed_gb >= bound:
            return None
        if entry.usable_bytes >= near and (option := place.option(entry)) is not None:
            return option
    return None


@dataclass(frozen=True, slots=True)
class _Place:
    """The run on so many of some accelerator, and what is needed to put it on another one."""

    request: pb.EstimateRunRequest
    run: Run
    knowledge: Knowledge
    fp32: bool

    @classmethod
    def of(cls, request: pb.EstimateRunRequest, reading: Reading, knowledge: Knowledge, count: int) -> "_Place":
        """The run on the largest accelerators. Raises DomainError where the spec cannot be run on so many."""
        changed = pb.EstimateRunRequest()
        changed.CopyFrom(request)
        changed.spec.CopyFrom(reading.spec)
        # A price is that of the accelerator which the request names.
        changed.spec.ClearField("ownership")
        name = _ascending(knowledge.prices)[-1].name
        changed.spec.hardware.CopyFrom(rs.Hardware(accelerator=name, count=count, sharding=sharding_of(count)))
        return cls(changed, read(changed, knowledge).run, knowledge, reading.spec.precision == rs.PRECISION_FP32)

    def option(self, entry: AcceleratorEntry) -> Option | None:
        """The option of an accelerator, if the run fits on it."""
        spec = self.request.spec
        spec.hardware.accelerator = entry.name
        device = read_device(spec.hardware, fp32=self.fp32)
        correction = correction_of(self.request, spec, self.knowledge)
        peaks, fit = fit_of(replace(self.run, device=device, correction=correction))
        if fit.verdict is not Verdict.FITS:
            return None
        return Option(entry.name, self.run.devices, peaks.device, device.usable_bytes, fit.verdict)


@cache
def _ascending(prices: PriceBook) -> tuple[AcceleratorEntry, ...]:
    """Accelerators that can be trained on, by memory as sold, then by price for speed; those without a price last."""

    def rank(entry: AcceleratorEntry) -> tuple[float, float, float, str]:
        price = prices.typical(entry.name)
        return (
            entry.marketed_gb,
            price / entry.training_flops if price else float("inf"),
            -entry.training_flops,
            entry.name,
        )

    return tuple(sorted(supported(), key=rank))


def _class_of(name: str) -> float:
    return accelerator(name).marketed_gb
