# SPDX-License-Identifier: Apache-2.0
"""Estimates as text."""

from collections.abc import Iterable

import click
from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2

from finetree_cli.options.flag_names import ASSUMED, flag_of, in_flags
from finetree_cli.output import Output
from finetree_cli.render import units

MOST_OFFERS = 3
"""Largest number of offers shown; the cheapest come first."""
CPU_RATE_UNKNOWN = "CPU_RATE_UNKNOWN"
"""Code of the remark that a CPU's speed is assumed."""


def show(out: Output, estimate: estimate_pb2.Estimate, command: click.Command) -> None:
    """Print memory by component, fit, time by phase, cost and notes, with the options of the command that was used."""
    show_memory(out, estimate)
    show_time(out, estimate)
    show_cost(out, estimate)
    show_what_fits(out, estimate)
    for row in estimate.nearest_runs:
        out.text(f"Measured: {row.description}: {_measured(row)}")
    if text := assumed(estimate.remarks, command):
        out.text(f"Assumed: {text}")
    for remark in estimate.remarks:
        if remark.code != ASSUMED:
            out.text(f"Note: {in_flags(remark.message, command)}{_measured_by(remark, command)}")
    out.text(f"Plan: {estimate.plan_digest}")


def _measured_by(remark: check_pb2.Remark, command: click.Command) -> str:
    """What measures the rate of a CPU, where the command has an option for it."""
    flag = flag_of(remark.field_path, command) if remark.code == CPU_RATE_UNKNOWN else ""
    return f"; {flag} takes the trainer's machine with its measured rate" if flag else ""


def assumed(remarks: Iterable[check_pb2.Remark], command: click.Command) -> str:
    """One line of the settings that were left open, each with the option or the key of a job file that changes it."""
    settings = [remark for remark in remarks if remark.code == ASSUMED]
    return ", ".join(
        f"{setting.message} ({flag_of(setting.field_path, command) or setting.field_path.removeprefix('spec.')})"
        for setting in settings
    )


def _measured(row: estimate_pb2.MeasuredRun) -> str:
    """Format what a run measured: a peak, a speed, or both."""
    peak = units.size(row.peak_bytes) if row.peak_bytes else ""
    speed = f"{row.tokens_per_second:.0f} tokens/s" if row.tokens_per_second else ""
    return ", ".join(part for part in (peak, speed) if part)


def show_what_fits(out: Output, estimate: estimate_pb2.Estimate) -> None:
    """Print changes that would fit, the largest sizes, the smallest hardware, and offers, as far as requested."""
    for remedy in estimate.remedies:
        out.text(f"Remedy: {remedy.summary}")
    if estimate.HasField("largest"):
        largest = estimate.largest
        rows = f"micro-batch {largest.micro_batch_size}" if largest.micro_batch_size else "no micro-batch"
        length = f"sequence length {largest.sequence_length}" if largest.sequence_length else "no sequence length"
        out.text(f"Largest that fits, all else unchanged: {rows}; {length}")
    for option in estimate.smallest_hardware:
        peak = f"{units.size(option.device_bytes.expected)} of {units.size(option.usable_device_bytes)}"
        out.text(f"Smallest hardware that fits: {option.count} x {option.accelerator} ({peak} each)")
    for offer in estimate.offers[:MOST_OFFERS]:
        out.text(f"Offer: {_offer(offer)}")


def _offer(offer: estimate_pb2.Offer) -> str:
    """Format an offer: GPUs, provider, time and cost."""
    price = offer.price
    term = units.word(catalog_pb2.PriceTerm, price.term)
    hours = units.duration(offer.hours.expected * 3600)
    amount = units.money_range(offer.cost)
    return f"{offer.count} x {price.accelerator} from {price.provider}, {term}: {hours}, {amount} ({price.price_id})"


def show_memory(out: Output, estimate: estimate_pb2.Estimate) -> None:
    """Print the device peak by component."""
    rows = [
        (
            item.label or _kind(item.kind),
            units.size(item.bytes.low),
            units.size(item.bytes.expected),
            units.size(item.bytes.high),
        )
        for item in estimate.memory.components
    ]
    peak = estimate.memory.device_bytes
    rows.append(("device peak", units.size(peak.low), units.size(peak.expected), units.size(peak.high)))
    out.table(["Memory", ">Low", ">Expected", ">High"], rows)
    out.text(estimate.fit.summary or units.word(estimate_summary_pb2.FitVerdict, estimate.fit.verdict))


def show_time(out: Output, estimate: estimate_pb2.Estimate) -> None:
    """Print time by phase, if the number of rows is known, and the number of trained parameters."""
    trained = f"{units.count(estimate.trainable_parameters)} of {units.count(estimate.total_parameters)} parameters"
    if not estimate.HasField("time"):
        out.text(f"{trained} are trained")
        return
    rows = [
        (
            units.word(estimate_pb2.TimePhaseKind, item.kind),
            units.duration(item.seconds.low),
            units.duration(item.seconds.expected),
            units.duration(item.seconds.high),
        )
        for item in estimate.time.phases
    ]
    total = estimate.time.total_seconds
    rows.append(("total", units.duration(total.low), units.duration(total.expected), units.duration(total.high)))
    out.table(["Time", ">Low", ">Expected", ">High"], rows)
    speed = units.count(estimate.time.tokens_per_second.expected)
    out.text(f"{estimate.optimizer_steps} optimizer steps at {speed} tokens/s; {trained} are trained")


def show_cost(out: Output, estimate: estimate_pb2.Estimate) -> None:
    """Print the cost with price, provider and date."""
    cost = estimate.cost
    if not cost.HasField("total"):
        return
    beside = [part for part in (cost.provider, cost.price_date) if part and part not in cost.price_id]
    of_what = f"rented: {cost.price_id}" if cost.price_id else "electricity"
    source = ", ".join([of_what, *beside])
    energy = f"; {cost.energy_kwh.expected:.3g} kWh" if cost.HasField("energy_kwh") else ""
    out.text(f"Cost: {units.money_range(cost.total)} ({source}){energy}")


def _kind(kind: int) -> str:
    return units.word(estimate_pb2.MemoryComponentKind, kind)
