# SPDX-License-Identifier: Apache-2.0
"""The smallest accelerators of the catalogue on which a run fits, alone and several of them sharing everything."""

from dataclasses import dataclass
from functools import cache

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.errors import DomainError

from finetree_estimator import constants as c
from finetree_estimator.catalog.accelerators import AcceleratorEntry, accelerator, supported
from finetree_estimator.catalog.price_book import PriceBook
from finetree_estimator.estimate import fit_of
from finetree_estimator.evidence.calibration import EMPTY, Calibration, correction_for
from finetree_estimator.intervals import Interval
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.spec.parse import ParsedRequest, parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif.elsewhere import correction_on, moved

COUNTS = (1, 2, 4, 8)
"""Devices that are tried: one machine's, in powers of two."""
NEAR = 0.95
"""Share of the upper end of the peak on another accelerator from which on one is tried: it depends little on it."""
CONTEXTS = 1.5 * (c.CUDA_CONTEXT - min(c.CUDA_CONTEXTS.values()))
"""By how much the context makes that end lower elsewhere, at most."""
NEAR_OBSERVED = 0.5
"""The same where runs were observed, whose factors differ between accelerators."""


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


def search(
    request: pb.EstimateRunRequest, parsed: ParsedRequest, knowledge: Knowledge, calibration: Calibration = EMPTY
) -> list[Option]:
    """For each number of devices the smallest memory class that fits, if no fewer devices of its size do.

    Of a class the accelerator with the lowest price for its speed is named. None for a run on a CPU.
    """
    if parsed.run.device.is_cpu:
        return []
    options: list[Option] = []
    bound = float("inf")
    for count in COUNTS:
        option = _smallest(request, parsed, knowledge, calibration, count=count, bound=bound)
        if option is not None:
            options.append(option)
            bound = _class_of(option.accelerator)
    return options


def _smallest(
    request: pb.EstimateRunRequest,
    parsed: ParsedRequest,
    knowledge: Knowledge,
    calibration: Calibration,
    *,
    count: int,
    bound: float,
) -> Option | None:
    """The smallest class below `bound` (GB as sold) of which so many devices do."""
    try:
        changed = _elsewhere(request, parsed, knowledge, count)
        there = parse_request(changed, knowledge)
    except DomainError:
        # The spec cannot be run on so many devices.
        return None
    share = NEAR_OBSERVED if calibration.points else NEAR
    near = share * (fit_of(there.run, correction_for(changed, changed.spec, calibration))[1].peak.high - CONTEXTS)
    for entry in _ascending(knowledge.prices):
        if entry.marketed_gb >= bound:
            return None
        if entry.usable_bytes < near:
            continue
        run = moved(request, there, knowledge, entry)
        peaks, fit = fit_of(run, correction_on(request, there, calibration, entry))
        if fit.verdict is Verdict.FITS:
            return Option(entry.name, count, peaks.device, run.device.usable_bytes, fit.verdict)
    return None


def _elsewhere(
    request: pb.EstimateRunRequest, parsed: ParsedRequest, knowledge: Knowledge, count: int
) -> pb.EstimateRunRequest:
    """The request for so many of the largest accelerators, at any price."""
    changed = pb.EstimateRunRequest()
    changed.CopyFrom(request)
    changed.spec.CopyFrom(parsed.spec)
    changed.spec.ClearField("ownership")
    name = _ascending(knowledge.prices)[-1].name
    changed.spec.hardware.CopyFrom(rs.Hardware(accelerator=name, count=count, sharding=sharding_of(count)))
    return changed


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
