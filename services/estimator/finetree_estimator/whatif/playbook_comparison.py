# SPDX-License-Identifier: Apache-2.0
"""The playbook's figures for a run, each beside the computed one, and why the two disagree where they do."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

from finetree_estimator.catalog.names import GIB
from finetree_estimator.catalog.playbook import BASE, Figure, FigureKind, Stated, figures
from finetree_estimator.estimate import Estimate
from finetree_estimator.intervals import Interval, Kind, Source
from finetree_estimator.run import Run

LIKE_BASE = (6e9, 8.5e9)
"""Parameters of models that are sold as 7B or 8B."""
SAME_PRICE = (0.8, 1.25)
"""Within these an hourly price explains nothing."""
DOLLARS = "USD"
"""The one currency of the playbook."""


class Compared(NamedTuple):
    """A figure, the computed one of the same unit where there is one, and where the two disagree."""

    figure: Figure
    computed: Interval | None
    note: str


_compared: Callable[[tuple[Figure, Interval | None, str]], Compared] = partial(tuple.__new__, Compared)


def compare(run: Run, estimate: Estimate, *, examples: int, runs_per_month: float = 0.0) -> tuple[Compared, ...]:
    """The playbook's figures for a run of so many examples (0: unknown), each beside the computed one."""
    computed = _computed(estimate, runs_per_month)
    hourly = estimate.cost.hourly if estimate.cost is not None else 0.0
    here = _Here(_other_size(estimate.total_parameters), run.device.name, run.devices, hourly)
    found = []
    for figure in figures(run.method.name, run.method.base_bits, examples, run.device.usable_bytes):
        interval = computed.get(figure.stated.kind)
        found.append(_compared((figure, interval, "" if interval is None else _note(figure, interval, here))))
    return tuple(found)


class _Here(NamedTuple):
    """What a run is where the playbook speaks of another."""

    other_size: str
    """Its model's, where that is not the base's; else empty."""
    device: str
    devices: int
    hourly: float
    """Price of an hour of one device; 0 where it has none."""


def _computed(estimate: Estimate, runs_per_month: float) -> dict[FigureKind, Interval]:
    """Computed figures in the playbook's units; money only in its currency. A card's GB are 2^30 bytes."""
    found = {FigureKind.GPU_MEMORY_GB: _in_unit(estimate.memory.device, 1 / GIB, _DEVICE_PEAK)}
    if estimate.times is not None:
        hours = _in_unit(estimate.times.total, 1 / 3600, _TOTAL_TIME)
        found[FigureKind.TIME_HOURS] = found[FigureKind.CHART_TIME_HOURS] = hours
    cost = estimate.cost
    if cost is not None and cost.amount is not None and cost.currency == DOLLARS:
        found[FigureKind.COST_USD] = _in_unit(cost.amount, 1.0, _AMOUNT)
        if runs_per_month > 0:
            found[FigureKind.CHART_MONTHLY_USD] = _in_unit(cost.amount, runs_per_month, _AMOUNT)
    return found


_PROBABLY = f"probably {BASE}"
_DEVICE_PEAK = (Source(Kind.COMPUTED, "estimate", "memory"),)
_TOTAL_TIME = (Source(Kind.COMPUTED, "estimate", "time"),)
_AMOUNT = (Source(Kind.COMPUTED, "estimate", "cost"),)


def _in_unit(interval: Interval, factor: float, sources: tuple[Source, ...]) -> Interval:
    low, expected, high = interval.low * factor, interval.expected * factor, interval.high * factor
    return Interval(low, expected, high, sources=sources, coverage=interval.coverage)


def _note(figure: Figure, computed: Interval, here: _Here) -> str:
    """How far the figure lies outside the computed interval, and what is different there (playbook) and here.

    Empty where it lies inside.
    """
    stated, value, _, extrapolated = figure
    low, expected, high = computed.low, computed.expected, computed.high
    above = value > high
    if not above and (stated.at_least or low <= value):
        return ""
    factor = value / expected if above and expected else expected / value
    by = "far" if expected == 0 else f"{factor:,.0f} times" if factor >= 10 else f"{factor:.1f} times"
    differences = _unlike(stated, here)
    if extrapolated:
        differences.append("beyond the table there")
    differences.append(_UNSAID[stated.kind][above])
    return f"{by} {'above' if above else 'below'} the computed: {'; '.join(differences)}"


def _unlike(stated: Stated, here: _Here) -> list[str]:
    """Where the run is not what the playbook speaks of. What names and prices say of each other is said again."""
    other_size, device, devices, hourly = here
    found = []
    if other_size:
        found.append(f"{BASE if stated.stated_for.startswith(BASE) else _PROBABLY} there, {other_size} here")
    if stated.gpu and (other := _other_gpu(stated.gpu, device)):
        found.append(other)
    if devices > 1:
        found.append(f"one GPU there, {devices} here")
    if stated.hourly and hourly and (other := _other_price(stated.hourly, hourly)):
        found.append(other)
    return found


@lru_cache(maxsize=1024)
def _other_size(parameters: int) -> str:
    """A size that is not that of the base; empty where it is."""
    return "" if LIKE_BASE[0] <= parameters <= LIKE_BASE[1] else f"{parameters / 1e9:.3g}B"


@lru_cache(maxsize=1024)
def _other_gpu(gpu: str, device: str) -> str:
    """Empty where the device is the GPU."""
    return "" if all(word in device for word in gpu.split()) else f"{gpu} there, {device} here"


@lru_cache(maxsize=1024)
def _other_price(there: float, here: float) -> str:
    """Empty where they are near."""
    return "" if SAME_PRICE[0] <= there / here <= SAME_PRICE[1] else f"${there:.2f} an hour there, ${here:.2f} here"


_UNSAID = dict.fromkeys(FigureKind, ("row lengths and epochs are not stated there",) * 2) | {
    FigureKind.GPU_MEMORY_GB: ("rows and batch are not stated there", "the size of a card there, a peak here")
}
"""What the playbook leaves open where a figure of it is below the computed one, and where it is above."""
