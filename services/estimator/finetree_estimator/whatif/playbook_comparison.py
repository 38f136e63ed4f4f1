# SPDX-License-Identifier: Apache-2.0
"""Comparison of the playbook's figures with the computed ones, and the reasons where they disagree."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetree_estimator.catalog.names import GIB
from finetree_estimator.catalog.playbook import BASE, Figure, FigureKind, figures
from finetree_estimator.estimate import Estimate
from finetree_estimator.intervals import Interval, Kind, Source
from finetree_estimator.run import Run

LIKE_BASE = (6e9, 8.5e9)
"""Range of parameters of models that are called 7B or 8B."""
SAME_PRICE = (0.8, 1.25)
"""Range of the ratio of two hourly prices within which the price does not explain a difference."""
DOLLARS = "USD"
"""Currency of the playbook."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of the playbook, the computed one in its unit if there is one, and a note where they disagree."""

    figure: Figure
    computed: Interval | None
    note: str
    """One line of text; empty where they agree or nothing was computed."""


def compare(run: Run, estimate: Estimate, *, examples: int, runs_per_month: float = 0.0) -> tuple[Compared, ...]:
    """Compare the playbook's figures for a run of `examples` rows (0: unknown) with the estimate."""
    computed = _computed(estimate, runs_per_month)
    found = []
    for figure in figures(
        run.method.name, run.method.base_bits, examples=examples, usable_bytes=run.device.usable_bytes
    ):
        interval = computed.get(figure.kind)
        note = "" if interval is None else _note(figure, interval, run, estimate=estimate)
        found.append(Compared(figure, interval, note))
    return tuple(found)


def _computed(estimate: Estimate, runs_per_month: float) -> dict[FigureKind, Interval]:
    """Computed figures in the playbook's units; money only in its currency. A GB of a GPU is 2^30 bytes."""
    found = {FigureKind.GPU_MEMORY_GB: _in_unit(estimate.memory.device, 1 / GIB, "memory")}
    if estimate.duration is not None:
        hours = _in_unit(estimate.duration.total, 1 / 3600, "time")
        found[FigureKind.TIME_HOURS] = found[FigureKind.CHART_TIME_HOURS] = hours
    cost = estimate.price
    if cost is not None and cost.amount is not None and cost.currency == DOLLARS:
        found[FigureKind.COST_USD] = _in_unit(cost.amount, 1.0, "cost")
        if runs_per_month > 0:
            found[FigureKind.CHART_MONTHLY_USD] = _in_unit(cost.amount, runs_per_month, "cost")
    return found


def _in_unit(interval: Interval, factor: float, part: str) -> Interval:
    """Convert a part of the estimate to another unit."""
    low, expected, high = interval.low * factor, interval.expected * factor, interval.high * factor
    sources = (Source(Kind.COMPUTED, "estimate", part),)
    return Interval(low, expected, high, sources=sources, coverage=interval.coverage)


def _note(figure: Figure, computed: Interval, run: Run, *, estimate: Estimate) -> str:
    """State how far a figure lies outside the computed interval, and why; empty where it lies inside."""
    value, expected = figure.value, computed.expected
    above = value > computed.high
    if not above and (figure.at_least or computed.low <= value):
        return ""
    factor = value / expected if above and expected else expected / value
    by = "far" if expected == 0 else f"{factor:,.0f} times" if factor >= 10 else f"{factor:.1f} times"
    differences = "; ".join(_differences(figure, run, estimate, above=above))
    return f"{by} {'above' if above else 'below'} the computed value: {differences}"


def _differences(figure: Figure, run: Run, estimate: Estimate, *, above: bool) -> Iterator[str]:
    """List how the run differs from the playbook's, and what the playbook does not state."""
    parameters = estimate.total_parameters
    if not LIKE_BASE[0] <= parameters <= LIKE_BASE[1]:
        there = BASE if figure.stated_for.startswith(BASE) else f"probably {BASE}"
        yield f"{there} in the playbook, {parameters / 1e9:.3g}B in this run"
    if not all(word in run.device.name for word in figure.gpu.split()):
        yield f"{figure.gpu} in the playbook, {run.device.name} in this run"
    if run.devices > 1:
        yield f"one GPU in the playbook, {run.devices} in this run"
    hourly = estimate.cost.hourly if estimate.cost is not None else 0.0
    if figure.hourly and hourly and not SAME_PRICE[0] <= figure.hourly / hourly <= SAME_PRICE[1]:
        yield f"${figure.hourly:.2f} an hour in the playbook, ${hourly:.2f} in this run"
    if figure.extrapolated:
        yield "extrapolated beyond the playbook's table"
    if figure.kind is not FigureKind.GPU_MEMORY_GB:
        yield "the playbook states no row lengths and epochs"
    else:
        yield "the playbook states a GPU's size, not a peak" if above else "the playbook states no rows and batch"
