# SPDX-License-Identifier: Apache-2.0
"""The trainer's capacity as text."""

from collections import Counter
from collections.abc import Iterable

from finetree_api.trainer.v1 import capacity_pb2

from finetree_cli.output import Output, short_name
from finetree_cli.render import units

MEMORY_COLUMNS = (">Memory", ">Ours", ">Promised", ">Others", ">Free", ">To give")


def show_capacity(out: Output, found: capacity_pb2.GetCapacityResponse) -> None:
    """Print nodes with their devices, who holds their memory and slots, and the length of the queue."""
    rows = [
        (
            node.name,
            item.id,
            item.display_name,
            *memory_cells(item),
            f"{item.free_slots} of {item.slots}",
            ", ".join(short_name(name) for name in item.running_jobs),
        )
        for node in found.nodes
        for item in node.devices
    ]
    out.table(["Node", "Device", "Name", *MEMORY_COLUMNS, ">Free slots", "Running"], rows)
    for item in (item for node in found.nodes for item in node.devices):
        out.text(f"{item.id}: {could_start(item)}")
        for each in item.memory.jobs:
            promised, used = units.size(each.promised_bytes), units.size(each.used_bytes)
            out.text(f"  {short_name(each.job)}: promised {promised}, uses {used}")
        for slot in item.slot_uses:
            if slot.processors:
                numbers = ", ".join(map(str, slot.processors))
                out.text(f"  slot {slot.slot}, processors {numbers}: {short_name(slot.job) if slot.job else 'free'}")
    out.text("\n".join([*node_types(found.node_types), f"Queue: {found.queue_length}"]))
    for lease in (lease for node in found.nodes for item in node.devices for lease in item.leases):
        until = units.instant(lease.expire_time)
        out.text(f"Serving: {short_name(lease.job)} until {until}, {lease.generations} being answered")
    for worker in (worker for node in found.nodes for item in node.devices for worker in item.resting_workers):
        until = units.instant(worker.expire_time)
        out.text(f"Held for the next job on the same base: {units.size(worker.memory_bytes)} until {until}")
    for node in found.nodes:
        out.text(f"{node.name}: {host(node)}")
        if node.HasField("processors"):
            out.text(f"{node.name}: {processors(node.processors)}")
    if found.confinement:
        out.text(confinement(found.confinement))


def node_types(types: Iterable[capacity_pb2.NodeType]) -> list[str]:
    """A line for each type of nodes that may come."""
    lines = []
    for each in types:
        kinds = Counter(item.hardware.accelerator or "cpu" for item in each.devices)
        devices = ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items())
        asked = f", {each.requested} asked for" if each.requested else ""
        lines.append(f"Nodes of type {each.name} ({devices}): {each.present} of at most {each.maximum}{asked}")
    return lines


def memory_cells(item: capacity_pb2.Device) -> tuple[str, ...]:
    """Who holds the memory of a device, in the order of `MEMORY_COLUMNS`."""
    if not item.HasField("memory"):  # a server of before
        return units.size(item.total_bytes), "-", "-", "-", units.size(item.free_bytes), "-"
    memory = item.memory
    figures = (memory.used_by_us_bytes, memory.promised_bytes, memory.used_by_others_bytes, memory.free_bytes)
    return tuple(units.size(figure) for figure in (memory.total_bytes, *figures, memory.available_bytes))


def could_start(item: capacity_pb2.Device) -> str:
    """What could start on a device now."""
    if item.fault:
        return f"taken out: {item.fault}"
    if not item.free_slots:
        return "no slot is free"
    count = item.threads_per_slot
    threads = f" and {count} thread{'s' if count > 1 else ''}" if count else ""
    available = item.memory.available_bytes if item.HasField("memory") else item.free_bytes
    return f"a job of at most {units.size(available)}{threads} could start now"


def processors(use: capacity_pb2.ProcessorUse) -> str:
    """Who computes on the processors of a machine."""
    return (
        f"{use.cores} cores, {use.used_by_us:.1f} used by the trainer and its jobs, "
        f"{use.used_by_others:.1f} by others, load {use.load_average:.1f}"
    )


def confinement(measures: Iterable[capacity_pb2.ConfinementMeasure]) -> str:
    """Format how workers are confined: what holds on one line, and one line for each measure that does not."""
    states = {
        capacity_pb2.CONFINEMENT_STATE_PARTIAL: "in part",
        capacity_pb2.CONFINEMENT_STATE_UNAVAILABLE: "unavailable",
        capacity_pb2.CONFINEMENT_STATE_OFF: "off",
    }
    holds, others = [], []
    for measure in measures:
        name = measure.name.replace("_", " ")
        if measure.state == capacity_pb2.CONFINEMENT_STATE_HOLDS:
            holds.append(name)
        else:
            others.append(f"  {name}: {states.get(measure.state, 'unknown')}, {measure.why}")
    return "\n".join([f"Workers are confined by: {', '.join(holds) or 'nothing'}", *others])


def host(node: capacity_pb2.Node) -> str:
    """Format a node's processor and its measured matrix rates."""
    rates = node.matrix_rates
    parts = [
        f"{name} {units.rate(forward)}" + (f" (backward {units.rate(backward)})" if backward else "")
        for name, forward, backward in (
            ("bf16", rates.bf16_flops_per_second, rates.bf16_backward_flops_per_second),
            ("fp32", rates.fp32_flops_per_second, rates.fp32_backward_flops_per_second),
        )
        if forward
    ]
    return f"{node.cpu_name or 'CPU'}, {', '.join(parts) or 'matrix rate not measured yet'}"
